"""Start the operator: logging, then the event loop."""

import asyncio
import logging
import sys

from gpugrant.run.operator import Options, run


def configure_logging(verbose: bool) -> None:
    """Log to standard error, one line an entry, in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = __import__("time").gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for noisy in ("aiohttp", "asyncio", "kopf"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def main(options: Options, verbose: bool = False) -> int:
    """Run the operator to its end; return the exit status."""
    configure_logging(verbose)
    return asyncio.run(run(options))
