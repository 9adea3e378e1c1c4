"""The commands. Heavy imports wait inside the commands, so that --help answers at once."""

import sys
from importlib import metadata
from pathlib import Path

import click

from gpugrant import names
from gpugrant.expose.report.commands import report
from gpugrant.expose.usage import usage
from gpugrant.meter.commands import ledger
from gpugrant.options import ledger_named

_KUBECONFIG = click.option(
    "--kubeconfig",
    envvar="KUBECONFIG",
    default="",
    metavar="FILE",
    help="Cluster to speak to. Default: $KUBECONFIG, else the pod's service account, else ~/.kube/config.",
)


def _version() -> str:
    try:
        return metadata.version("gpugrant")
    except metadata.PackageNotFoundError:
        return "not installed: run from a checkout"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(_version(), message="%(version)s")
def main() -> None:
    """Awarded GPUs, enforced, kept busy and accounted for on Kubernetes.

    `run` is the operator. `why`, `status` and `preview` only read the cluster and answer with the operator's own
    reasoning: they work out the same plan from the same objects. `usage` and `report` read the ledger (some of
    report's commands leave a note in it for the operator), `ledger` checks it, backs it up and restores it.
    `uninstall` leaves nothing of it on nodes and pods.
    """


@main.command()
@_KUBECONFIG
@click.option(
    "--metrics-port",
    default=names.METRICS_PORT,
    show_default=True,
    metavar="N",
    help="Port of /metrics, /healthz and /readyz.",
)
@click.option(
    "--ledger",
    envvar="GPUGRANT_LEDGER",
    callback=ledger_named,
    metavar="URL",
    help="Where the ledger is kept, as an SQLAlchemy URL, such as sqlite:////var/lib/gpugrant/ledger.db. "
    "Default: $GPUGRANT_LEDGER. Without it nothing is metered, and pods that ended keep their finalizer.",
)
@click.option(
    "--reports",
    envvar="GPUGRANT_REPORTS",
    default="",
    metavar="DIR",
    help="Where closed months are kept. Default: $GPUGRANT_REPORTS, else reports/ beside a ledger of SQLite's.",
)
@click.option(
    "--signing-key",
    envvar="GPUGRANT_SIGNING_KEY",
    default="",
    metavar="FILE",
    help="Ed25519 key (PEM, mode 0600) that closed months are signed with. Default: $GPUGRANT_SIGNING_KEY, else "
    "signing-key.pem beside a ledger of SQLite's, made on first use.",
)
@click.option("--verbose", is_flag=True, help="Log every detail.")
def run(
    kubeconfig: str, metrics_port: int, ledger: str | None, reports: str, signing_key: str, verbose: bool
) -> None:
    """Run the operator until SIGTERM.

    Takes the Lease gpugrant-system/gpugrant first; a second replica waits for it. Ends with status 3 when
    another one has taken the lease.
    """
    from gpugrant.run.operator import Options
    from gpugrant.run.process import run_forever

    run_forever(Options(kubeconfig, metrics_port, ledger or "", reports, signing_key), verbose)


@main.command()
@click.option("--write", is_flag=True, help="Write the files.")
@click.option("--check", is_flag=True, help="Fail where a file differs from the models.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Where the files are. Default: crds/ of the checkout.",
)
def crds(write: bool, check: bool, folder: Path | None) -> None:
    """Print, write or check the generated CRDs."""
    from gpugrant.api import crd

    if not write and not check:
        for text in crd.render().values():
            click.echo(text)
        return
    arguments = ["--write" if write else "--check", *(["--folder", str(folder)] if folder else [])]
    sys.exit(crd.main(arguments))


@main.command()
@_KUBECONFIG
@click.argument("thing", metavar="KIND/NAME")
@click.option("-n", "--namespace", default="default", show_default=True, help="Its namespace.")
def why(kubeconfig: str, thing: str, namespace: str) -> None:
    """Say why pod/NAME or grant/NAME is where it is.

    Prints the whole chain of verdicts, in the words the decision itself used.
    """
    from gpugrant.run.asking import Asked, ask

    kind, slash, name = thing.partition("/")
    kinds = {"pod": "pod", "po": "pod", "grant": "grant", "gpugrant": "grant", "gg": "grant"}
    if not slash or kind.lower() not in kinds:
        raise click.UsageError("name what you ask about as pod/NAME or grant/NAME")
    _print(ask(kubeconfig, Asked("why", kinds[kind.lower()], namespace, name)))


@main.command()
@_KUBECONFIG
def status(kubeconfig: str) -> None:
    """Show pools, use, failures and what waits, on one screen."""
    from gpugrant.run.asking import Asked, ask

    _print(ask(kubeconfig, Asked("status")))


@main.command()
@_KUBECONFIG
@click.option(
    "-f",
    "--filename",
    "file",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="YAML with pools, quotas, grants, namespaces, nodes or pods.",
)
def preview(kubeconfig: str, file: Path) -> None:
    """Say what would come of applying FILE; writes nothing.

    The objects are put beside those of the cluster, and the operator's plan is made for all of them.
    """
    from gpugrant.run.asking import Asked, ask

    _print(ask(kubeconfig, Asked("preview", file=str(file))))


@main.command()
@_KUBECONFIG
@click.option(
    "--waiting",
    type=click.Choice(["list", "release"]),
    default="list",
    show_default=True,
    help="What becomes of pods that wait behind the gate. list: they are named and stay. release: the gate is taken "
    "off, and they start wherever they fit.",
)
@click.option(
    "--patience",
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the operator to go.",
)
def uninstall(kubeconfig: str, waiting: str, patience: int) -> None:
    """Stop the operator, and take everything of gpugrant's off nodes and pods.

    What runs goes on. Ledger, closed months, CRDs and their objects stay. Run by `helm uninstall` as the operator's
    service account, since nobody else may take our marks off. May be repeated.
    """
    from gpugrant.observe.client import ApiError
    from gpugrant.run import uninstall as uninstalling

    try:
        uninstalling.uninstall(kubeconfig, click.echo, release=waiting == "release", patience=patience)
    except (ApiError, ValueError, uninstalling.UninstallError) as error:
        raise SystemExit(f"gpugrant: {error}") from None


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)


main.add_command(ledger)
main.add_command(report)
main.add_command(usage)
