"""python -m devcluster up | down | demo: what `make up`, `make down` and `make demo` run."""

import argparse
import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from devcluster.binaries import BuildFailed
from devcluster.client import Refused
from devcluster.examples import write_examples
from devcluster.fleet import Fleet, scaled, whole_fleet
from devcluster.processes import ProcessEnded
from devcluster.runfolder import ROOT, AlreadyRuns, RunFolder
from devcluster.up import bring_up, take_down


def _fleet(servers: str) -> Fleet:
    if not servers:
        return whole_fleet()
    if not servers.isdigit():
        raise ValueError(f"SERVERS={servers} is not a number of servers")
    return scaled(int(servers))


def first_line(fleet: Fleet) -> str:
    """Say how large the fleet is, and that it is shrunk where it is."""
    whole = whole_fleet()
    size = f"{fleet.servers:,} servers, {fleet.gpus:,} GPUs"
    if fleet.servers == whole.servers:
        return f"the whole fleet: {size}"
    return f"the fleet in proportion, {size} instead of {whole.servers:,} servers, {whole.gpus:,} GPUs"


def _up(given: argparse.Namespace) -> int:
    run, fleet = RunFolder(), _fleet(given.servers)
    settings = Path(given.settings) if given.settings else ROOT / "examples" / "settings.yaml"
    if not settings.is_file():
        raise ValueError(f"SETTINGS={settings} is not a file")
    print(first_line(fleet), flush=True)
    with run.claimed({"command": "up", "servers": fleet.servers}):
        write_examples(ROOT / "examples", run.examples, fleet, datetime.now(UTC).date())
        asyncio.run(bring_up(run, fleet, settings, operator=not given.no_operator))
    print(f"\nup. export KUBECONFIG={run.kubeconfig}")
    if run.metrics_url.exists():
        print(f"metrics: {run.metrics_url.read_text().strip()}   operator's log: {run.operator_log}")
    print(f"examples that fit: {run.examples}   to end it: make down")
    return 0


def _down(_: argparse.Namespace) -> int:
    print("ended" if take_down(RunFolder()) else "nothing ran")
    return 0


def _demo(given: argparse.Namespace) -> int:
    from devcluster.demo import demo

    run, fleet = RunFolder(), _fleet(given.servers)
    shrunk = "; the examples' public shares, grants and Jobs shrink with it" if fleet != whole_fleet() else ""
    print(f"{first_line(fleet)}{shrunk}", flush=True)
    with run.claimed({"command": "demo", "servers": fleet.servers}):
        return demo(run, fleet, leave=given.exit)


def main() -> int:
    """Read the command line and do it; errors of use are one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="devcluster", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, does, about in (
        ("up", _up, "start control plane, fleet and operator, detached"),
        ("down", _down, "end what up started"),
        ("demo", _demo, "start everything, show it, end it"),
    ):
        command = commands.add_parser(name, help=about)
        command.set_defaults(does=does)
        if name != "down":
            command.add_argument("--servers", default="", help="size of the fleet; default: all of it")
        if name == "up":
            command.add_argument("--settings", default="", help="settings file; default: examples/settings.yaml")
            command.add_argument("--no-operator", action="store_true", help="do not start the operator")
        if name == "demo":
            command.add_argument("--exit", action="store_true", help="end when all promises were seen")
    given = parser.parse_args()
    try:
        status: int = given.does(given)
    except (AlreadyRuns, BuildFailed, ProcessEnded, Refused, TimeoutError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
