"""The image of a kind node: Debian's packages, kind's own files for nodes, our binaries and the images they run.

kind's files (the entrypoint, containerd's and the kubelet's units) are taken from its Go module when the image is
made. The image is kept in the cache as one archive, under a digest of everything that goes in.
"""

import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.binaries import BINARIES, KUBERNETES, BuildFailed, find_or_build, say, source_of
from kind.archives import Image, LayerFile, file_digest, write_archive
from kind.binaries import CNI_PLUGINS, COREDNS, IN_CONTAINERS, IN_NODE
from kind.rootfs import RootFileSystem, find_or_make, kind_cache

_HERE = Path(__file__).resolve().parent
_NODE_FILES = _HERE / "node"
_ETCD = next(binary.version for binary in BINARIES if binary.name == "etcd")
# What kubeadm is told to run instead of the etcd it would pull.
ETCD_TAG = f"{_ETCD}-0"
# Named by the manifests in node/.
_POD_NETWORK = "localhost/gpugrant/pod-network:built"
_VOLUMES = "localhost/gpugrant/local-path-provisioner:built"
_KEPT = 2  # archives of former contents, for a checkout that goes back and forth

# Units that mount, load or probe what belongs to the host; a node has only those that are enabled below.
_NOT_IN_A_CONTAINER = " ".join(
    f'"$1"{pattern}' for pattern in (
        "/lib/systemd/system/multi-user.target.wants/*", "/etc/systemd/system/*.wants/*",
        "/lib/systemd/system/local-fs.target.wants/*", "/lib/systemd/system/sockets.target.wants/*udev*",
        "/lib/systemd/system/sockets.target.wants/*initctl*", "/lib/systemd/system/basic.target.wants/*",
        "/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    )
)
NODE_ROOT = RootFileSystem(
    "node",
    ("systemd", "systemd-sysv", "dbus", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux",
     "mount", "kmod", "libseccomp2", "bash", "ca-certificates", "curl", "jq", "procps", "runc", "e2fsprogs", "socat",
     "pigz"),
    hooks=(f"rm -f {_NOT_IN_A_CONTAINER}",),
)
_UNITS = ("kubelet", "containerd", "undo-mount-hacks", "import-images")


@dataclass(frozen=True)
class NodeImage:
    """A node image: the name it is loaded under, and its archive."""

    name: str
    archive: Path


def find_or_make_node_image() -> NodeImage:
    """Return the image for what is pinned and written here; make it where there is none. Raises BuildFailed."""
    binaries = find_or_build([*BINARIES, *IN_NODE, *CNI_PLUGINS, *IN_CONTAINERS])
    kind_files = source_of("kind", "sigs.k8s.io/kind") / "images" / "base" / "files"
    digest = _digest(binaries, kind_files)
    image = NodeImage(f"localhost/gpugrant/kind-node:{digest}", kind_cache() / f"node-{digest}.tar")
    if not image.archive.exists():
        root = find_or_make(NODE_ROOT)
        started = time.monotonic()
        say("making the node image: about a quarter of a minute")
        with tempfile.TemporaryDirectory(dir=kind_cache(), prefix=".node-") as folder:
            beside = Path(folder) / "node.tar"
            write_archive(beside, [_node(image.name, root, binaries, kind_files, Path(folder))])
            beside.rename(image.archive)
        _forget_old()
        say(f"made {image.archive} in {time.monotonic() - started:.0f} s, {image.archive.stat().st_size / 1e6:.0f} MB")
    return image


def _digest(binaries: Mapping[str, Path], kind_files: Path) -> str:
    told = hashlib.sha256(NODE_ROOT.digest().encode())
    for name, path in sorted(binaries.items()):
        told.update(f"{name} {file_digest(path)}\n".encode())
    for folder in (kind_files, _NODE_FILES):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            told.update(f"{path.relative_to(folder)} {file_digest(path)}\n".encode())
    for module in (Path(__file__), _HERE / "archives.py"):
        told.update(module.read_bytes())
    return told.hexdigest()[:16]


def _forget_old() -> None:
    archives = sorted(kind_cache().glob("node-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in archives[_KEPT:]:
        path.unlink(missing_ok=True)


# -- what a node is made of ----------------------------------------------------------------------------


def _node(name: str, root: Path, binaries: Mapping[str, Path], kind_files: Path, folder: Path) -> Image:
    images = folder / "images"
    images.mkdir()
    containerd = (kind_files / "etc/containerd/config.toml").read_text()
    _write_inner_images(images, root, binaries, _pause_of(containerd))
    layer = folder / "layer.tar"
    with LayerFile(layer) as files:
        for path in sorted(kind_files.rglob("*")):
            at = str(path.relative_to(kind_files))
            if path.is_file():
                files.file(at, path, 0o755 if "/bin/" in at else 0o644)
        for each in ("kubelet", "kubeadm", "kubectl"):
            files.file(f"usr/bin/{each}", binaries[each], 0o755)
        for each in ("containerd", "containerd-shim-runc-v2", "ctr"):
            files.file(f"usr/local/bin/{each}", binaries[each], 0o755)
        for plugin in CNI_PLUGINS:
            files.file(f"opt/cni/bin/{plugin.name}", binaries[plugin.name], 0o755)
        files.file("etc/containerd/cri-base.json", _runtime_spec(binaries["ctr"]))
        files.folder("etc/kubernetes/manifests")
        files.file("etc/systemd/journald.conf.d/node.conf", b"[Journal]\nReadKMsg=no\n")
        files.file("kind/version", f"v{KUBERNETES}".encode())
        files.file("kind/manifests/default-cni.yaml", _NODE_FILES / "pod-network.yaml")
        files.file("kind/manifests/default-storage.yaml", _NODE_FILES / "volumes.yaml")
        files.file("kind/bin/import-images", _NODE_FILES / "import-images", 0o755)
        files.file("etc/systemd/system/import-images.service", _NODE_FILES / "import-images.service")
        for unit in _UNITS:
            files.link(f"etc/systemd/system/multi-user.target.wants/{unit}.service", f"../{unit}.service")
        files.link("etc/systemd/system/systemd-binfmt.service", "/dev/null")
        for archive in sorted(images.glob("*.tar")):
            files.file(f"kind/images/{archive.name}", archive)
    settings = {
        "Env": ["container=docker", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Entrypoint": ["/usr/local/bin/entrypoint", "/sbin/init"],
        "StopSignal": "SIGRTMIN+3",
    }
    return Image(name, [root, layer], settings)


def _pause_of(containerd: str) -> str:
    found = re.search(r'sandbox_image = "([^"]+)"', containerd)
    if found is None:
        raise BuildFailed("kind's configuration of containerd names no sandbox_image any more: see kind.nodeimage")
    return found[1]


def _runtime_spec(ctr: Path) -> bytes:
    """Return what containers' specifications start from: the runtime's, and kind's hook that hides the host's DMI."""
    told = subprocess.run([ctr, "oci", "spec"], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    spec: dict[str, Any] = json.loads(told.stdout)
    spec["process"].pop("rlimits", None)
    hooks = spec.setdefault("hooks", {})
    hooks["createContainer"] = [*hooks.get("createContainer", []), {"path": "/kind/bin/mount-product-files.sh"}]
    return json.dumps(spec, indent=1).encode()


def _write_inner_images(folder: Path, root: Path, binaries: Mapping[str, Path], pause: str) -> None:
    layers = folder.parent / "layers"
    layers.mkdir()
    network = layers / "network.tar"
    with LayerFile(network) as files:
        files.members_of(root, _is_for_networks)
        files.file("usr/local/bin/pod-network", _NODE_FILES / "pod-network", 0o755)
    ours = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    path = {"Env": [f"{key}={value}" for key, value in ours.items()]}

    def single(name: str, binary: str, settings: Mapping[str, Any] = path) -> Image:
        return Image(name, [_layer_of(layers, binaries[binary])], settings)

    registry = "registry.k8s.io"
    write_archive(folder / "every-node.tar", [
        Image(f"{registry}/kube-proxy:v{KUBERNETES}", [network, _layer_of(layers, binaries["kube-proxy"])], path),
        Image(_POD_NETWORK, [network], path),
        single(f"{registry}/coredns/coredns:v{COREDNS}", "coredns", {**path, "Entrypoint": ["/usr/local/bin/coredns"]}),
        single(pause, "pause", {**path, "Entrypoint": ["/usr/local/bin/pause"]}),
    ])
    write_archive(folder / "control-plane.tar", [
        single(f"{registry}/etcd:{ETCD_TAG}", "etcd"),
        single(_VOLUMES, "local-path-provisioner"),
        *(single(f"{registry}/{name}:v{KUBERNETES}", name)
          for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")),
    ])


def _layer_of(folder: Path, binary: Path) -> Path:
    layer = folder / f"{binary.name}.tar"
    if not layer.exists():
        with LayerFile(layer) as files:
            files.folder("tmp", 0o1777)
            files.file(f"usr/local/bin/{binary.name}", binary, 0o755)
    return layer


_NOT_FOR_NETWORKS = re.compile(
    r"^(dev|proc|sys|run|home|media|mnt|srv|boot)/|^usr/share/|^usr/lib/systemd/|^var/(lib|cache|log)/"
    r"|^usr/lib/(apt|dpkg|udev|python3)|/perl|/libperl|/gconv/|^usr/s?bin/(systemd|apt|dpkg|perl|curl|runc)"
)


def _is_for_networks(name: str) -> bool:
    return _NOT_FOR_NETWORKS.search(name) is None


def remember_use(image: NodeImage) -> None:
    """Mark an archive as used now, so that others are forgotten before it."""
    os.utime(image.archive)
