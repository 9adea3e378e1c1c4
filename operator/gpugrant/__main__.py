"""The command line: ``python -m gpugrant`` and ``gpugrant``."""

from gpugrant.cli import cli

if __name__ == "__main__":
    cli()
