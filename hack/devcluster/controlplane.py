"""One control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok, on 127.0.0.1.

Everything of it lies in one folder: data, keys, logs, pids, `kubeconfig` (the platform engineer's). It is
started detached (`start`) or for as long as this process lives (`start(guarded=True)`).
"""

import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from devcluster import processes
from devcluster.binaries import find_or_build
from devcluster.credentials import ADMIN, write_credentials, write_kubeconfig

STAGES = Path(__file__).resolve().parent / "stages"
# In the order they start; they stop the other way round.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
_READY_SECONDS = 90.0
_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""
# kwok renews at a quarter of it. Long, since 2,000 leases every 10 s would be the machine's main work; a lost
# server is played by a Stage, not by a lease that runs out.
_LEASE_SECONDS = 1200


class ControlPlane:
    """A control plane in ``folder``. Knows its own processes only by what is recorded there.

    With ``audit`` the API server notes every request in `audit.log`: who, what, and whether it was allowed.
    """

    def __init__(self, folder: Path, *, audit: bool = False) -> None:
        self.folder = folder.resolve()
        self.audited = audit
        self._guard: int | None = None

    # -- what a client needs -------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """The platform engineer's kubeconfig (group system:masters)."""
        return self.folder / "kubeconfig"

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self._ports()['kube-apiserver']}"

    @property
    def ca_file(self) -> Path:
        """The authority that signed the API server's certificate."""
        return self.folder / "ca.crt"

    @property
    def audit_log(self) -> Path:
        """One audit.k8s.io/v1 Event a line, where requests are noted."""
        return self.folder / "audit.log"

    @property
    def admin_token(self) -> str:
        """The platform engineer's token."""
        return (self.folder / "admin.token").read_text()

    # -- start and stop ------------------------------------------------------------------------------

    def start(self, *, guarded: bool = False) -> None:
        """Start all components and wait until pods can be created. Raises ProcessEnded, BuildFailed, TimeoutError.

        With ``guarded`` they end when this process does, even where it is killed.
        """
        self._binaries = find_or_build()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.running():
            raise RuntimeError(f"a control plane already runs in {self.folder}")
        if guarded:
            self._guard = processes.guard(self.folder)
        try:
            self._prepare()
            for name in COMPONENTS[:2]:
                self.start_component(name)
            self.wait_until_ready()
            for name in COMPONENTS[2:]:
                self.start_component(name)
            self._wait("the default service account (kube-controller-manager makes it)",
                       lambda: self.get("/api/v1/namespaces/default/serviceaccounts/default") is not None)
        except BaseException:
            self.stop(at_once=True)
            raise

    def stop(self, *, at_once: bool = False) -> None:
        """End every process of this control plane, and no other."""
        order = list(reversed(COMPONENTS))
        ours = {record.name: record for record in processes.running(self.folder) if record.name in order}
        if at_once:
            processes.stop(self.folder, list(ours.values()), at_once=True)
        else:
            # The clients first and together; etcd last, or the others would wait for it.
            processes.stop(self.folder, [ours[name] for name in order[:3] if name in ours], patience=3.0)
            processes.stop(self.folder, [ours[name] for name in order[3:] if name in ours], patience=3.0)
        if self._guard is not None:
            os.close(self._guard)
            self._guard = None

    def running(self) -> list[str]:
        """Return the names of the components that run."""
        return [record.name for record in processes.running(self.folder) if record.name in COMPONENTS]

    def restart_apiserver(self, *, kill: bool = False) -> None:
        """Stop the API server (with ``kill``: SIGKILL) and start it again on the same port; wait until ready."""
        self.stop_component("kube-apiserver", kill=kill)
        self.start_component("kube-apiserver")
        self.wait_until_ready()

    def stop_component(self, name: str, *, kill: bool = False) -> None:
        """Stop one component, for tests of what happens without it."""
        records = [record for record in processes.running(self.folder) if record.name == name]
        processes.stop(self.folder, records, at_once=kill)

    def start_component(self, name: str) -> None:
        """Start one component that does not run."""
        if not hasattr(self, "_binaries"):
            self._binaries = find_or_build()
        processes.start(name, [str(self._binaries[name]), *_ARGUMENTS[name](self)], self.folder)

    def wait_until_ready(self) -> None:
        """Wait until the API server answers /readyz with ok."""
        self._wait("the API server", lambda: self._answer("/readyz") == b"ok")

    # -- reads without any client library ------------------------------------------------------------

    def get(self, path: str) -> dict[str, object] | None:
        """Return the object at ``path`` as the platform engineer, or None where there is none (yet)."""
        answer = self._answer(path)
        if answer is None:
            return None
        found: dict[str, object] = json.loads(answer)
        return found

    def _answer(self, path: str) -> bytes | None:
        request = urllib.request.Request(
            self.server + path, headers={"Authorization": f"Bearer {self.admin_token}"})
        context = ssl.create_default_context(cafile=str(self.ca_file))
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as response:
                body: bytes = response.read()
                return body
        except urllib.error.HTTPError as error:
            error.close()
            return None
        except (urllib.error.URLError, OSError):
            return None

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not is_there():
            for record in processes.read_records(self.folder):
                processes.check(self.folder, record)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} was not there after {_READY_SECONDS:.0f} s; logs are in {self.folder}")
            time.sleep(0.05)

    # -- files ---------------------------------------------------------------------------------------

    def _ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.folder / "ports.json").read_text())
        return ports

    def _prepare(self) -> None:
        ports = dict(zip(("etcd", "etcd-peer", "kube-apiserver"), free_ports(3), strict=True))
        (self.folder / "ports.json").write_text(json.dumps(ports))
        for record in processes.read_records(self.folder):
            (self.folder / f"{record.name}.pid").unlink(missing_ok=True)
        token = write_credentials(self.folder)
        write_kubeconfig(self.kubeconfig, self.server, self.ca_file, ADMIN, token)
        stages = "\n---\n".join(path.read_text() for path in sorted(STAGES.glob("*.yaml")))
        (self.folder / "stages.yaml").write_text(stages)
        (self.folder / "audit-policy.yaml").write_text(_AUDIT_POLICY)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; all held open until the last is found, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


# -- command lines -------------------------------------------------------------------------------------


def _etcd(plane: ControlPlane) -> list[str]:
    ports = plane._ports()
    client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd-peer"))
    return [
        "--name=dev", f"--data-dir={plane.folder / 'etcd'}", "--unsafe-no-fsync",
        f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=dev={peer}",
        "--quota-backend-bytes=8589934592", "--log-level=warn",
    ]


def _apiserver(plane: ControlPlane) -> list[str]:
    ports, folder = plane._ports(), plane.folder
    return [
        f"--etcd-servers=http://127.0.0.1:{ports['etcd']}",
        "--bind-address=127.0.0.1", f"--secure-port={ports['kube-apiserver']}",
        f"--tls-cert-file={folder / 'server.crt'}", f"--tls-private-key-file={folder / 'server.key'}",
        f"--cert-dir={folder / 'certificates'}",
        "--service-cluster-ip-range=10.0.0.0/16", "--endpoint-reconciler-type=none",
        "--authorization-mode=RBAC", "--allow-privileged=true", f"--token-auth-file={folder / 'tokens.csv'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'sa.pub'}",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        "--profiling=false",
        # A burst of 10,000 pods must not be held back by these.
        "--max-requests-inflight=3000", "--max-mutating-requests-inflight=1500",
        "--default-watch-cache-size=1000",
        *([f"--audit-policy-file={folder / 'audit-policy.yaml'}", f"--audit-log-path={plane.audit_log}"]
          if plane.audited else []),
    ]


_UNTHROTTLED = ["--kube-api-qps=5000", "--kube-api-burst=10000", "--leader-elect=false", "--secure-port=0",
                "--profiling=false"]


def _controllers(plane: ControlPlane) -> list[str]:
    folder = plane.folder
    return [
        f"--kubeconfig={plane.kubeconfig}", *_UNTHROTTLED,
        # It rewrites every node each time the fleet passes 100, 500, 1000 servers, for kubelets that are not there.
        # The taint of new nodes then comes off late: the node controller gives up on a conflict until the next event.
        "--controllers=*,-ttl-controller",
        f"--service-account-private-key-file={folder / 'sa.key'}", f"--root-ca-file={plane.ca_file}",
        f"--node-monitor-grace-period={_LEASE_SECONDS + 300}s",
        "--concurrent-job-syncs=10", "--concurrent-gc-syncs=30",
    ]


def _scheduler(plane: ControlPlane) -> list[str]:
    return [f"--kubeconfig={plane.kubeconfig}", *_UNTHROTTLED]


def _kwok(plane: ControlPlane) -> list[str]:
    return [
        f"--kubeconfig={plane.kubeconfig}", f"--config={plane.folder / 'stages.yaml'}", "--manage-all-nodes",
        "--cidr=10.64.0.0/10", "--node-ip=10.1.0.1", f"--node-lease-duration-seconds={_LEASE_SECONDS}", "--v=WARN",
    ]


_ARGUMENTS: dict[str, Callable[[ControlPlane], list[str]]] = {
    "etcd": _etcd, "kube-apiserver": _apiserver, "kube-controller-manager": _controllers,
    "kube-scheduler": _scheduler, "kwok": _kwok,
}
