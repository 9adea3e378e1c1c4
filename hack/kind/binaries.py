"""The binaries that kind, its nodes and the tests of the charts need, beside those of the dev cluster.

They come from the same cache and are built the same way, and only when somebody asks: `make demo` and
`make test` do without. `python -m kind.binaries helm` prints the path of one of them.
"""

import sys
from pathlib import Path

from devcluster.binaries import BINARIES, Binary, BuildFailed, find_or_build, kubernetes_binary

CONTAINERD = "2.4.2"
COREDNS = "1.14.6"
PAUSE = "3.10"  # ours, in place of the published one that kind names
_CONTAINERD_MODULE = "github.com/containerd/containerd/v2"
_CONTAINERD_FLAGS = f"-s -w -X {_CONTAINERD_MODULE}/version.Version=v{CONTAINERD}"
_CNI_MODULE = "github.com/containernetworking/plugins"
_CNI = "1.9.1"


def _containerd(name: str, minutes: float) -> Binary:
    package = f"{_CONTAINERD_MODULE}/cmd/{name}"
    return Binary(name, "containerd", package, CONTAINERD, _CONTAINERD_FLAGS, minutes)


def _cni(kind: str, name: str) -> Binary:
    return Binary(name, "cni", f"{_CNI_MODULE}/plugins/{kind}/{name}", _CNI, minutes=0.1)


HELM = Binary(
    "helm", "helm", "helm.sh/helm/v3/cmd/helm", "3.22.0",
    flags="-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0", minutes=2.0,
)
KIND = Binary("kind", "kind", "sigs.k8s.io/kind", "0.33.0", minutes=0.2)
# What lies in a node's root file system. kubectl comes with the dev cluster.
IN_NODE: tuple[Binary, ...] = (
    kubernetes_binary("kubelet", 0.7),
    kubernetes_binary("kubeadm", 0.5, ("version", "--output=short")),
    _containerd("containerd", 1.6),
    _containerd("containerd-shim-runc-v2", 0.2),
    _containerd("ctr", 0.2),
)
CNI_PLUGINS: tuple[Binary, ...] = (
    _cni("main", "bridge"), _cni("main", "loopback"), _cni("main", "ptp"), _cni("ipam", "host-local"),
    _cni("meta", "portmap"),
)
# What runs in containers of a node; the control plane's are the dev cluster's.
IN_CONTAINERS: tuple[Binary, ...] = (
    kubernetes_binary("kube-proxy", 0.2),
    Binary("coredns", "coredns", "github.com/coredns/coredns", COREDNS, minutes=2.0),
    Binary("pause", "pause", ".", PAUSE, minutes=0.1),
    Binary(
        "local-path-provisioner", "local-path-provisioner", "github.com/rancher/local-path-provisioner", "0.0.30",
        minutes=1.0),
)
ALL: tuple[Binary, ...] = (HELM, KIND, *BINARIES, *IN_NODE, *CNI_PLUGINS, *IN_CONTAINERS)


def helm() -> Path:
    """Return the path of helm; build it where it is nowhere. Raises BuildFailed."""
    return find_or_build([HELM])["helm"]


def main(names: list[str]) -> int:
    """Print the paths of the binaries that are named, or of all."""
    known = {binary.name: binary for binary in ALL}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such binary: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        found = find_or_build([known[name] for name in names] if names else ALL)
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    for name, path in found.items():
        print(path if len(names) == 1 else f"{name:26} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
