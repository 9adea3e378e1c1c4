"""Make the stubs from the .proto files, or check that they are what would be made."""

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

FOLDER = Path(__file__).resolve().parent
# Stubs import each other by their path from here.
_ROOT = FOLDER.parent.parent
PROTOS = ("deviceplugin.proto", "podresources.proto")


def make(into: Path) -> None:
    """Write all stubs under a folder, at the paths they have under hack/. Raises RuntimeError."""
    where = FOLDER.relative_to(_ROOT)
    arguments = [f"-I{_ROOT}", f"--python_out={into}", f"--pyi_out={into}", f"--grpc_python_out={into}"]
    if protoc.main(["protoc", *arguments, *(str(where / proto) for proto in PROTOS)]) != 0:
        raise RuntimeError("the compiler refused a .proto file; what it said stands above")


def differing() -> list[str]:
    """Return the names of stubs that are not what the .proto files say, or missing, or left over."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        fresh = Path(folder) / FOLDER.relative_to(_ROOT)
        made = {path.name: path.read_text() for path in fresh.iterdir()}
    there = {path.name: path.read_text() for path in FOLDER.glob("*_pb2*")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main(arguments: list[str]) -> int:
    """Do what the one argument says: --write or --check."""
    if arguments == ["--write"]:
        make(_ROOT)
        return 0
    if arguments != ["--check"]:
        print("say --write or --check", file=sys.stderr)
        return 2
    names = differing()
    for name in names:
        print(f"{name} is not what the .proto files say: python -m deviceplugin.api --write", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
