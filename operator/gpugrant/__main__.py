"""``python -m gpugrant``: the command line."""

from gpugrant.main import main

if __name__ == "__main__":
    main(prog_name="gpugrant")
