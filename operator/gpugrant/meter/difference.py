"""What a check of the ledger has to say. Pure."""

from collections.abc import Callable

from msgspec import Struct

Told = Callable[[str, int, int], None]  # what is being checked, how much of it is done, of how much

FACTS = "the facts say"
JOURNAL = "the journal says"


class Difference(Struct, frozen=True):
    """Something stored that is not what it must be. GPU-seconds, unless ``where`` says otherwise.

    ``says`` is who says what is expected, as a subject and its verb.
    """

    where: str
    expected: str
    found: str
    says: str = FACTS

    @property
    def amount(self) -> int:
        """Return by how much it differs; 0 where that is no number."""
        try:
            return int(self.found) - int(self.expected)
        except ValueError:
            return 0

    def __str__(self) -> str:
        """Return it as a sentence."""
        amount = f" ({self.amount:+d})" if self.amount else ""
        return f"{self.where}: {self.found} is stored, {self.says} {self.expected}{amount}"
