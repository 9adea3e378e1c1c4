"""Every `gpugrant …` line of the manuals names commands and options that there are."""

import re
import shlex
from pathlib import Path

import click
import pytest

from gpugrant.main import main

ROOT = Path(__file__).parents[2]
MANUALS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# On a line of its own in a block, with or without a prompt, or between back-quotes in a sentence.
_LINE = re.compile(r"^(?:\$ )?(?:\.venv/bin/|python -m )?(gpugrant [a-z].*)$", re.MULTILINE)
_QUOTED = re.compile(r"`(gpugrant [a-z][^`]*)`")


def command_lines():
    found = []
    for manual in MANUALS:
        text = manual.read_text()
        blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
        sentences = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in _LINE.findall(block)]
        lines += [" ".join(line.split()) for line in _QUOTED.findall(sentences)]
        found += [pytest.param(line, id=f"{manual.name}: {line}") for line in dict.fromkeys(lines)]
    return found


def faults(line):
    """Return what of a command line there is not."""
    words = shlex.split(line.split("  #")[0].replace("[", "").replace("]", ""))[1:]
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        name = words.pop(0)
        if name not in command.commands:
            return [f"no command {name}"]
        command = command.commands[name]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return [
        word for word in words if word.startswith("-") and word.split("=")[0] not in {*known, "-h", "--help"}
    ]


@pytest.mark.parametrize("line", command_lines())
def test_a_documented_command_is_one(line):
    assert faults(line) == []


def test_the_lines_are_found_and_faults_are_seen():
    assert len(command_lines()) >= 15
    assert faults("gpugrant report lst") == ["no command lst"]
    assert faults("gpugrant report list --all") == ["--all"]
