"""The plugin's image, localhost/gpugrant/deviceplugin, built by docker or podman: what `make plugin-image` runs."""

import argparse
import shutil
import sys
from pathlib import Path

from devcluster.binaries import BuildFailed
from devcluster.runfolder import ROOT
from kind.engine import Engine, EngineFailed, NoEngine, find_builder
from kind.images import build

_RECIPE = ROOT / "images" / "deviceplugin"
_PACKAGE = Path(__file__).resolve().parent


def build_plugin(engine: Engine, given_base: str = "") -> str:
    """Build the image from this checkout and return its name. Raises BuildFailed, EngineFailed."""
    return build(engine, "deviceplugin", _RECIPE / "Dockerfile", _RECIPE / "requirements.txt", _put_package, given_base)


def _put_package(context: Path) -> None:
    # What builds images and stubs is of no use in one.
    left_out = shutil.ignore_patterns("__pycache__", "manifests", "image.py", "README.md", "*.proto", "*.pyi")
    shutil.copytree(_PACKAGE, context / "deviceplugin", ignore=left_out)


def main() -> int:
    """Build it; errors of use are a message and status 1."""
    parser = argparse.ArgumentParser(prog="deviceplugin.image", description=__doc__)
    parser.add_argument("--base", default="", help="image with Python to build on; default: made of Debian's packages")
    try:
        build_plugin(find_builder(), parser.parse_args().base)
    except (BuildFailed, EngineFailed, NoEngine) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
