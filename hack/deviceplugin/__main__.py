"""python -m deviceplugin."""

from deviceplugin.cli import main

main(prog_name="deviceplugin")
