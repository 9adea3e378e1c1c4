"""The commands: `serve` on a node, the verbs of control from beside it."""

import asyncio
import json
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from deviceplugin.control import MANNERS
from deviceplugin.node import COUNT_LABEL, PROFILE_LABEL, Node, Refused, server_of_this_pod
from deviceplugin.profiles import NoSuchProfile, profile, profiles
from deviceplugin.service import PLUGIN_FOLDER, POD_RESOURCES, Options, Service

_CONTROL = "http://127.0.0.1:9401"
_SECONDS = 10


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--control", envvar="FAKE_GPU_CONTROL", default=_CONTROL, show_default=True, metavar="URL",
              help="Where the plugin listens for commands.")
@click.pass_context
def main(context: click.Context, control: str) -> None:
    """Fake GPUs for a real kubelet. `serve` runs on a node; the other commands make it fail, or ask it."""
    context.obj = control


@main.command()
@click.option("--profile", "name", default="", metavar="NAME",
              help=f"Kind of server. Default: what the Node's label {PROFILE_LABEL} says.")
@click.option("--count", type=int, default=None, metavar="N",
              help=f"Devices. Default: the label {COUNT_LABEL}, else what the profile has.")
@click.option("--node", envvar="NODE_NAME", default=socket.gethostname, metavar="NAME",
              help="Name of this node: ids depend on it. Default: $NODE_NAME, else the host's name.")
@click.option("--label-node", is_flag=True, help="Put on the Node what feature discovery would. In a pod only.")
@click.option("--plugin-dir", type=click.Path(path_type=Path), default=PLUGIN_FOLDER, show_default=True)
@click.option("--pod-resources", type=click.Path(path_type=Path), default=POD_RESOURCES, show_default=True)
@click.option("--metrics", default="0.0.0.0:9400", show_default=True, metavar="HOST:PORT")
@click.option("--listen", default="127.0.0.1:9401", show_default=True, metavar="HOST:PORT",
              help="Where to listen for commands. Whoever reaches it commands.")
@click.option("--log", "log_file", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Append the log to a file too.")
def serve(name: str, count: int | None, node: str, label_node: bool, plugin_dir: Path, pod_resources: Path,
          metrics: str, listen: str, log_file: Path | None) -> None:
    """Be the device plugin of this node until told to end."""
    try:
        asyncio.run(_serve(Options(
            **_what(name, count, node, label_node), node=node, plugin_folder=plugin_dir, pod_resources=pod_resources,
            metrics=_address("--metrics", metrics), control=_address("--listen", listen), log_file=log_file)))
    except (NoSuchProfile, Refused, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _what(name: str, count: int | None, node: str, label_node: bool) -> dict[str, Any]:
    """Return the profile, the count and the Node to label, from options and, where those are silent, the Node."""
    api = Node(node, server_of_this_pod()) if label_node or not name else None
    if not name and api is not None:
        labels = asyncio.run(api.labels())
        name, told = labels.get(PROFILE_LABEL, ""), labels.get(COUNT_LABEL, "")
        if not name:
            raise Refused(f"node {node} has no label {PROFILE_LABEL}: label it, or name the profile with --profile")
        if count is None and told:
            if not told.isdecimal():
                raise ValueError(f"node {node}: label {COUNT_LABEL}: a whole number, not {told!r}")
            count = int(told)
    return {"profile": profile(name), "count": count, "api": api if label_node else None}


def _address(option: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{option}: HOST:PORT, not {text!r}")
    return host.strip("[]"), int(port)


async def _serve(options: Options) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with Service(options).running():
        await ended.wait()


@main.command("profiles")
def list_profiles() -> None:
    """List the kinds of servers there are."""
    for each in profiles().values():
        click.echo(f"{each.name:6} {each.count} × {each.resource:20} {each.memory_mib:>7} MiB  {each.model}")


@main.command()
@click.argument("name", metavar="PROFILE")
@click.option("--count", type=int, default=None, metavar="N", help="Devices. Default: what the profile has.")
def labels(name: str, count: int | None) -> None:
    """Print the labels of a profile's nodes, as KEY=VALUE, for kubectl label."""
    try:
        told = profile(name)
    except NoSuchProfile as error:
        raise click.ClickException(str(error)) from None
    for key, value in told.labels(told.count if count is None else count).items():
        click.echo(f"{key}={value}")


# -- verbs -----------------------------------------------------------------------------------------------


@main.command()
@click.pass_obj
def state(control: str) -> None:
    """Show devices, registration, streams, as JSON."""
    _show(_ask(control, "state", None))


@main.command()
@click.argument("device")
@click.argument("number", type=int, metavar="XID")
@click.pass_obj
def xid(control: str, device: str, number: int) -> None:
    """Let the driver report an Xid: Unhealthy, but for 13, 31, 43, 45, 68 and 109."""
    _do(control, "xid", device=device, xid=number)


@main.command()
@click.argument("device")
@click.argument("reason", default="")
@click.pass_obj
def fail(control: str, device: str, reason: str) -> None:
    """Make a device Unhealthy."""
    _do(control, "fail", device=device, reason=reason)


@main.command()
@click.argument("device", metavar="DEVICE|all")
@click.pass_obj
def heal(control: str, device: str) -> None:
    """Make a device, or all, Healthy."""
    _do(control, "heal", device=device)


@main.command()
@click.argument("device")
@click.pass_obj
def remove(control: str, device: str) -> None:
    """Take a device out of the server."""
    _do(control, "remove", device=device)


@main.command()
@click.argument("device")
@click.pass_obj
def add(control: str, device: str) -> None:
    """Put a device back that was removed."""
    _do(control, "add", device=device)


@main.command()
@click.argument("device")
@click.argument("percent", type=int, required=False)
@click.option("--memory-mib", type=int, default=None, metavar="N")
@click.pass_obj
def load(control: str, device: str, percent: int | None, memory_mib: int | None) -> None:
    """Set what metrics show of a device; nothing: what they show by themselves."""
    _do(control, "load", device=device, percent=percent, memory_mib=memory_mib)


@main.command()
@click.argument("manner", type=click.Choice(list(MANNERS)))
@click.option("--times", type=int, default=None, metavar="N", help="For so many calls. Default: until told otherwise.")
@click.option("--message", default=None, help="The words of a failure.")
@click.pass_obj
def allocate(control: str, manner: str, times: int | None, message: str | None) -> None:
    """Let Allocate answer, fail or hang."""
    words = {} if message is None else {"message": message}
    _do(control, "allocate", manner=manner, times=times, **words)


@main.command("drop-stream")
@click.option("--register/--stay", default=True, help="Register again at once, or leave it.")
@click.pass_obj
def drop_stream(control: str, register: bool) -> None:
    """End the ListAndWatch stream with an error."""
    _do(control, "drop-stream", register=register)


@main.command()
@click.pass_obj
def unregister(control: str) -> None:
    """Be unknown to the kubelet, over its restarts too, until `register`."""
    _do(control, "unregister")


@main.command("register")
@click.pass_obj
def register_again(control: str) -> None:
    """Register again, on a fresh socket."""
    _do(control, "register")


def _do(control: str, verb: str, **arguments: Any) -> None:
    _show(_ask(control, verb, arguments))


def _ask(control: str, path: str, arguments: dict[str, Any] | None) -> Any:
    body = None if arguments is None else json.dumps(arguments).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{control}/{path}", body), timeout=_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise click.ClickException(json.load(error)["error"]) from None
    except OSError as error:
        raise click.ClickException(f"{control}: {error}; is the plugin running there?") from None


def _show(told: Any) -> None:
    json.dump(told, sys.stdout, indent=2)
    sys.stdout.write("\n")
    sys.stdout.flush()
