"""The commands. Heavy imports wait inside the commands, so that --help answers at once."""

import sys
from pathlib import Path

import click

from gpugrant import names

_KUBECONFIG = click.option(
    "--kubeconfig",
    envvar="KUBECONFIG",
    default="",
    metavar="FILE",
    help="Cluster to speak to. Default: $KUBECONFIG, else the pod's service account, else ~/.kube/config.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gpugrant", message="%(version)s")
def cli() -> None:
    """Awarded GPUs, enforced, kept busy and accounted for on Kubernetes.

    `run` is the operator. The other commands only read the cluster and answer with the operator's own
    reasoning: they work out the same plan from the same objects.
    """


@cli.command()
@_KUBECONFIG
@click.option("--metrics-port", default=names.METRICS_PORT, show_default=True, metavar="N",
              help="Port of /metrics, /healthz and /readyz.")
@click.option("--ledger", default="", metavar="URL",
              help="Where the ledger is kept, as an SQLAlchemy URL, such as sqlite:////var/lib/gpugrant/ledger.db.")
@click.option("--verbose", is_flag=True, help="Log every detail.")
def run(kubeconfig: str, metrics_port: int, ledger: str, verbose: bool) -> None:
    """Run the operator until SIGTERM.

    Takes the Lease gpugrant-system/gpugrant first; a second replica waits for it. Ends with status 3 when
    another one has taken the lease.
    """
    from gpugrant.main import main
    from gpugrant.run.operator import Options

    main(Options(kubeconfig, metrics_port, ledger), verbose)
