"""python -m kind up | down | image: what `make kind-up`, `make kind-down` and `make image` run."""

import argparse
import os
import sys

from devcluster.binaries import BuildFailed
from devcluster.runfolder import ROOT
from kind.cluster import AlreadyUp, ClusterFailed, KindCluster
from kind.engine import EngineFailed, NoEngine, find_builder, find_engine
from kind.images import build_operator

NAME = os.environ.get("GPUGRANT_KIND_NAME", "gpugrant")


def own_cluster() -> KindCluster:
    """Return the cluster of `make kind-up`, up or not. Raises NoEngine."""
    return KindCluster(NAME, ROOT / ".run" / "kind", find_engine())


def _up(_: argparse.Namespace) -> None:
    cluster = own_cluster()
    cluster.start()
    print(f"\nup. export KUBECONFIG={cluster.kubeconfig}   to end it: make kind-down")


def _down(_: argparse.Namespace) -> None:
    print("ended" if own_cluster().end() else "nothing ran")


def _image(given: argparse.Namespace) -> None:
    build_operator(find_builder(), given.base)


def main() -> int:
    """Do what the command line says; errors of use are a message and status 1."""
    parser = argparse.ArgumentParser(prog="kind", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "image"))
    parser.add_argument("--base", default="", help="image with Python to build on; default: made of Debian's packages")
    given = parser.parse_args()
    try:
        {"up": _up, "down": _down, "image": _image}[given.command](given)
    except (AlreadyUp, BuildFailed, ClusterFailed, EngineFailed, NoEngine) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
