"""The demo: everything from nothing, what the examples promise seen through the API, and shown to a person."""

import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from devcluster.client import JsonObject, KubeClient, load_manifests, path_of
from devcluster.demo_month import show_month, show_where
from devcluster.examples import write_examples
from devcluster.fleet import Fleet, whole_fleet
from devcluster.promises import Promise, promises_of, see_all
from devcluster.runfolder import ROOT, RunFolder
from devcluster.screen import show
from devcluster.up import bring_up, client_of

_WAITING = "gpugrant.io/waiting"
# The tenant has a grant of 6 GPUs and holds 2 of them: this pod shows what waiting looks like.
_ONE_TOO_MANY = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "notebook-1", "namespace": "seorak-univ"},
    "spec": {"containers": [{"name": "jupyter", "image": "registry.example/jupyter:1",
                             "resources": {"limits": {"nvidia.com/gpu": 5}}}]},
}


def demo(run: RunFolder, fleet: Fleet, *, leave: bool) -> int:
    """Run the demo to its end; return 0 only if every promise was seen. Leaves no process behind, however it ends."""

    def _interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    status = 1
    try:
        status = asyncio.run(_demo(run, fleet, leave=leave))
    except KeyboardInterrupt:
        status = 130  # before all was seen: afterwards an interruption is the way to end it, and no error
    finally:
        # A second Ctrl-C must not leave half of it running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        print("ending everything …", flush=True)
        if status == 1:
            print(f"logs are kept in {run.keep_logs()}", file=sys.stderr)
        run.stop()
        run.clear(keep=("examples", *run.accounts))
    return status


async def _demo(run: RunFolder, fleet: Fleet, *, leave: bool) -> int:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    examples = write_examples(ROOT / "examples", run.examples, fleet, datetime.now(UTC).date())
    fitted = "as they fit it" if fleet != whole_fleet() else "with terms around today"
    console.print(f"examples {fitted}: {run.examples}")
    await bring_up(run, fleet, run.examples / "settings.yaml", guarded=True)
    async with client_of(run) as client:
        console.print("applying the examples: pools, tenants, grants, pods …")
        await _apply(client, examples)
        objects = load_manifests(*(path for path in examples if path.name != "settings.yaml"))

        def _told(promise: Promise, what: str, holds: bool) -> None:
            mark = "[green]✓[/]" if holds else "[red]✗ not seen:[/]"
            console.print(f"  {mark} {promise.sentence} [dim]({what})[/]")

        held = await see_all(client, promises_of(objects), _told)
        if held:
            await _let_one_wait(client)
            await _settle(client, objects)
        await show(console, client)
        await show_month(console, run)
        show_where(console, run)
        url = run.metrics_url.read_text().strip()
        console.print(f"\nmetrics: {url}   operator's log: {run.operator_log}")
        console.print(f"look around: export KUBECONFIG={run.kubeconfig}")
        if held and not leave:
            console.print("\nall promises seen. It stays up until Ctrl-C.")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return 0
    console.print("\nall promises seen." if held else "\nNOT all promises were seen.")
    return 0 if held else 1


async def _apply(client: KubeClient, examples: list[Path]) -> None:
    """Apply pools, tenants, grants, pods, in this order, as a person would with kubectl."""
    by_stem = {path.stem: path for path in examples}
    for stem in ("pools", "tenants", "grants"):
        for manifest in load_manifests(by_stem.pop(stem)):
            await client.apply(manifest)
    by_stem.pop("settings", None)
    for path in by_stem.values():
        for manifest in load_manifests(path):
            # Pods are refused until the controller has made their namespace's account.
            namespace = manifest["metadata"].get("namespace", "default")
            await client.wait_for(f"/api/v1/namespaces/{namespace}/serviceaccounts/default", bool)
            await client.apply(manifest, manager="tenant")


async def _let_one_wait(client: KubeClient) -> None:
    await client.apply(_ONE_TOO_MANY, manager="tenant")
    await client.wait_for(
        path_of("v1", "Pod", "seorak-univ", "notebook-1"),
        lambda seen: seen is not None and _WAITING in seen["metadata"].get("annotations", {}), 30)


async def _settle(client: KubeClient, objects: list[JsonObject]) -> None:
    """Wait until the statuses tell of what runs: they are written a moment after the pods are."""
    gpus = {each["metadata"]["name"]: each["spec"]["gpus"] for each in objects if each["kind"] == "GpuGrant"}
    for namespace, name, held in (("hangang-lm", "pretrain", gpus["pretrain"]), ("seorak-univ", "notebooks", 2)):
        await client.wait_for(
            path_of("gpugrant.io/v1alpha1", "GpuGrant", namespace, name),
            lambda seen, held=held: (seen or {}).get("status", {}).get("usage", {}).get("held") == held, 30)
    await client.wait_for(
        path_of("gpugrant.io/v1alpha1", "GpuPool", None, "kakao-b200"),
        lambda seen: (seen or {}).get("status", {}).get("ownUse", {}).get("held", 0) >= 4, 30)
