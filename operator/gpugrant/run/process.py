"""The operator as a process: logging, event loop, exit status."""

import asyncio
import logging
import os
import sys
import time
from typing import NoReturn

from gpugrant.run.operator import Options, run


def configure_logging(verbose: bool) -> None:
    """Log to standard error, one line an entry, in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for noisy in ("aiohttp", "alembic", "asyncio", "kopf"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def run_forever(options: Options, verbose: bool = False) -> NoReturn:
    """Run the operator to its end, and end the process with its exit status."""
    configure_logging(verbose)
    try:
        status = asyncio.run(run(options))
    except ValueError as error:
        print(f"gpugrant: {error}", file=sys.stderr)
        status = 2
    # Everything of ours has ended in good order; Kopf's threads have no such order and may take seconds.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
