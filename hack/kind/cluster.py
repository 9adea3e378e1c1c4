"""One kind cluster: a control plane and three workers, started, asked, given images, and ended without a trace.

Its folder holds `kubeconfig` (a person's), `ca.crt` and `admin.token` (for clients that want no more than that),
and `failed`, the logs of a start that failed.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from devcluster.binaries import BINARIES, find_or_build, say
from kind.binaries import KIND
from kind.engine import Engine, EngineFailed
from kind.nodeimage import ETCD_TAG, NodeImage, find_or_make_node_image, remember_use

WORKERS = 3
# On all nodes the same folder, which anybody in a pod that mounts it may write: a volume of many readers and writers.
SHARED_FOLDER = "/var/local/shared"
_LABEL = "io.x-k8s.kind.cluster"
_READY_SECONDS = 120
_CAP_SYS_RESOURCE = 24
_MODULES = Path("/lib/modules")
# A cluster of four nodes has some 75 of the 128 that Linux allows a user; kubelets and kube-proxies that get none
# crash. https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_NEEDED = 512
_KUBECTL = next(binary for binary in BINARIES if binary.name == "kubectl")


class ClusterFailed(RuntimeError):
    """The cluster could not be started, or something in it did not do as told; the message says what to look at."""


class AlreadyUp(RuntimeError):
    """A cluster of this name is up; the message tells how to use or end it."""


class KindCluster:
    """A cluster by its name, which is also its network's; ``folder`` is where its kubeconfig goes."""

    def __init__(self, name: str, folder: Path, engine: Engine, workers: int = WORKERS) -> None:
        self.name = name
        self.folder = folder.resolve()
        self.engine = engine
        self.workers = workers

    # -- what a client needs -------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """The platform engineer's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def ca_file(self) -> Path:
        """The authority that signed the API server's certificate."""
        return self.folder / "ca.crt"

    @property
    def admin_token(self) -> str:
        """A token that may do everything, good for a day."""
        return (self.folder / "admin.token").read_text()

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl on the cluster as the platform engineer; return what it prints. Raises ClusterFailed."""
        command = [str(self._kubectl), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, input=text or "")
        if done.returncode != 0:
            raise ClusterFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    @cached_property
    def _kubectl(self) -> Path:
        return find_or_build([_KUBECTL])["kubectl"]

    # -- start and stop ------------------------------------------------------------------------------

    def nodes(self) -> list[str]:
        """Return the names of its nodes' containers, running or not."""
        return sorted(self.engine.names("ps", f"{_LABEL}={self.name}"))

    def start(self) -> None:
        """Start it and wait until its nodes are Ready and DNS answers. Raises AlreadyUp, ClusterFailed, BuildFailed."""
        if nodes := self.nodes():
            raise AlreadyUp(
                f"a kind cluster {self.name} is up already ({', '.join(nodes)}). Nothing was started or stopped. "
                "To end it: make kind-down")
        image = self._image()
        self.folder.mkdir(parents=True, exist_ok=True)
        _make_modules_folder()
        _allow_watches()
        started = time.monotonic()
        config = self.folder / "kind.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        try:
            self._kind("create", "cluster", "--image", image, "--config", str(config), "--kubeconfig",
                       str(self.kubeconfig), "--retain")
            self._wait_until_ready()
            self._write_admin()
        except BaseException as error:
            self._keep_logs()
            self.end()
            if isinstance(error, ClusterFailed):
                raise ClusterFailed(f"{error}\nThe nodes' logs: {self.folder / 'failed'}") from None
            raise
        say(f"kind cluster {self.name}: a control plane and {self.workers} workers are up after "
            f"{time.monotonic() - started:.0f} s, run by {self.engine}")

    def end(self) -> bool:
        """Remove its containers, volumes and network, and its files but the logs of a failure; say if any ran."""
        ran = bool(self.nodes())
        volumes = self.engine.names("volume", f"{_LABEL}={self.name}")
        for node in self.nodes():
            volumes += self._volumes_of(node)
        if running := self.engine.run("ps", "--quiet", "--filter", f"label={_LABEL}={self.name}").split():
            self.engine.run("kill", *running)  # or podman waits ten seconds for each node to shut down
        self._kind("delete", "cluster", "--kubeconfig", str(self.kubeconfig))
        for volume in volumes:
            if volume in self.engine.run("volume", "ls", "--quiet").split():
                self.engine.run("volume", "rm", volume)
        if self.name in self._networks():
            self.engine.run("network", "rm", self.name)
        for file in ("kubeconfig", "kubeconfig.lock", "ca.crt", "admin.token", "kind.yaml"):
            (self.folder / file).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "shared", ignore_errors=True)
        if not self.engine.names("ps", _LABEL):  # nodes of other clusters mount it too
            _remove_modules_folder()
        return ran

    def _networks(self) -> list[str]:
        return self.engine.run("network", "ls", "--format", "{{.Name}}").split()

    def _volumes_of(self, node: str) -> list[str]:
        mounts = json.loads(self.engine.run("inspect", "--type", "container", node))[0]["Mounts"]
        return [mount["Name"] for mount in mounts if mount["Type"] == "volume"]

    def _image(self) -> str:
        """Return the name of the node image, at hand in the engine: our own, or the one that the user names."""
        if given := os.environ.get("GPUGRANT_KIND_IMAGE"):
            return given
        image = find_or_make_node_image()
        remember_use(image)
        if not self.engine.has_image(image.name):
            self._load_into_engine(image)
        return image.name

    def _load_into_engine(self, image: NodeImage) -> None:
        started = time.monotonic()
        self.engine.run("load", "--input", str(image.archive))
        say(f"loaded the node image into {self.engine} in {time.monotonic() - started:.0f} s")
        names = self.engine.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        repository = image.name.rpartition(":")[0]
        for old in names:
            if old.rpartition(":")[0] == repository and old != image.name:
                try:
                    self.engine.run("rmi", old)
                except EngineFailed:
                    say(f"{old} is still in use and stays")

    def _kind(self, *arguments: str) -> None:
        kind = find_or_build([KIND])["kind"]
        environment = {
            **self.engine.settings(),
            "KIND_EXPERIMENTAL_PROVIDER": self.engine.program,
            # A network of its own can be removed again; one that all kind clusters share could not.
            f"KIND_EXPERIMENTAL_{self.engine.program.upper()}_NETWORK": self.name,
        }
        done = subprocess.run(
            [str(kind), *arguments, "--name", self.name], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, env=environment)
        if done.returncode != 0:
            raise ClusterFailed(f"kind {' '.join(arguments[:2])}: {(done.stderr or done.stdout).strip()[-4000:]}")

    def _config(self) -> dict[str, Any]:
        patches: list[dict[str, Any]] = []
        shared = {"hostPath": str(self._make_shared_folder()), "containerPath": SHARED_FOLDER}
        config: dict[str, Any] = {
            "kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [{"role": role, "extraMounts": [shared]}
                      for role in ("control-plane", *("worker" for _ in range(self.workers)))],
        }
        if not os.environ.get("GPUGRANT_KIND_IMAGE"):
            patches.append({"kind": "ClusterConfiguration", "etcd": {"local": {"imageTag": ETCD_TAG}}})
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            patches.append({"kind": "KubeletConfiguration", "failCgroupV1": False})
        if not _may_raise_limits():
            # The kubelet and containerd then take a refused oom_score_adj or limit as it is.
            config["featureGates"] = {"KubeletInUserNamespace": True}
            config["containerdConfigPatches"] = [
                '[plugins."io.containerd.grpc.v1.cri"]\n  restrict_oom_score_adj = true\n']
        config["kubeadmConfigPatches"] = [yaml.safe_dump(patch) for patch in patches]
        return config

    def _make_shared_folder(self) -> Path:
        shared = self.folder / "shared"
        shared.mkdir(exist_ok=True)
        shared.chmod(0o777)
        return shared

    def _wait_until_ready(self) -> None:
        wait = f"--timeout={_READY_SECONDS}s"
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", wait)
        self.kubectl("rollout", "status", "--namespace=kube-system", wait, "deployment/coredns")

    def _write_admin(self) -> None:
        config = yaml.safe_load(self.kubeconfig.read_text())
        authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
        self.ca_file.write_bytes(base64.b64decode(authority))
        account = ("--namespace=kube-system", "platform-engineer")
        self.kubectl("create", "serviceaccount", *account)
        self.kubectl("create", "clusterrolebinding", "platform-engineer", "--clusterrole=cluster-admin",
                     "--serviceaccount=kube-system:platform-engineer")
        token = self.folder / "admin.token"
        token.touch(mode=0o600)
        token.write_text(self.kubectl("create", "token", *account, "--duration=24h").strip())

    def _keep_logs(self) -> None:
        kept = self.folder / "failed"
        shutil.rmtree(kept, ignore_errors=True)
        try:
            self._kind("export", "logs", str(kept))
        except (ClusterFailed, EngineFailed) as error:
            say(f"the nodes' logs could not be kept: {error}")

    # -- what tests do to it ---------------------------------------------------------------------------

    def load(self, *images: str, nodes: Sequence[str] = ()) -> None:
        """Give nodes (all, where none is named) images of the engine, by name. Raises EngineFailed, ClusterFailed."""
        with tempfile.TemporaryDirectory(prefix="gpugrant-load-") as folder:
            for number, image in enumerate(images):
                archive = Path(folder) / f"{number}.tar"
                format_of = ["--format", "docker-archive"] if self.engine.program == "podman" else []
                self.engine.run("save", *format_of, "--output", str(archive), image)
                self.load_archive(archive, nodes=nodes)

    def load_archive(self, archive: Path, *, nodes: Sequence[str] = ()) -> None:
        """Give nodes (all, where none is named) the images of an archive. Raises ClusterFailed."""
        of_nodes = ["--nodes", ",".join(nodes)] if nodes else []
        self._kind("load", "image-archive", str(archive), *of_nodes)

    def run_in_node(self, node: str, *command: str) -> str:
        """Run a command in a node's container; return what it prints. Raises EngineFailed."""
        return self.engine.run("exec", node, *command)

    def stop_node(self, node: str) -> None:
        """Stop a node as a machine that is switched off; its containers go with it. Raises EngineFailed."""
        self.engine.run("kill", node)

    def start_node(self, node: str) -> None:
        """Start a node that was stopped. Raises EngineFailed."""
        self.engine.run("start", node)


def _remove_modules_folder() -> None:
    if _MODULES.is_dir() and os.access(_MODULES.parent, os.W_OK) and not any(_MODULES.iterdir()):
        _MODULES.rmdir()


def _may_raise_limits() -> bool:
    """Say whether root here may raise limits: what the kernel took from all of us, no container gets back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return True


def _make_modules_folder() -> None:
    """Make the folder that kind mounts into nodes, where a host's kernel has no modules; `end` removes it."""
    if not _MODULES.exists():
        try:
            _MODULES.mkdir()
        except OSError as error:
            raise ClusterFailed(
                f"kind mounts {_MODULES}, which is not there: make an empty folder of that name ({error})") from None


def _allow_watches() -> None:
    """Raise the host's limit on file watchers where it is too low for a cluster, and say so."""
    allowed = int(_INOTIFY.read_text())
    if allowed >= _INOTIFY_NEEDED:
        return
    name = f"fs.inotify.max_user_instances={_INOTIFY_NEEDED}"
    try:
        _INOTIFY.write_text(str(_INOTIFY_NEEDED))
    except OSError:
        say(f"only {allowed} file watchers are allowed here; if nodes do not become Ready: sudo sysctl {name}")
    else:
        say(f"set {name} until the next boot (it was {allowed}): nodes watch many files")
