"""What keeps a ledger from being read, said to who gave the command."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def ledger_in_words() -> Iterator[None]:
    """Raise errors of reading a ledger as click's: a URL that is none, a store that is away, a name it has not."""
    from gpugrant.meter.database import LedgerUrlError
    from gpugrant.meter.store import StoreAwayError

    try:
        yield
    except LedgerUrlError as error:
        raise click.UsageError(str(error)) from None
    except StoreAwayError as error:
        raise click.ClickException(f"the ledger cannot be read: {error}") from None
    except (KeyError, IndexError):
        raise  # a mistake of ours, not a name that is not known
    except LookupError as error:
        raise click.ClickException(str(error)) from None
