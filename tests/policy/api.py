"""A bare HTTP client for a real API server, speaking as any user by impersonation. Raw JSON, no models."""

import base64
import itertools
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import yaml

from gpugrant import names

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

T = TypeVar("T")
_serial = itertools.count(1)


@dataclass(frozen=True)
class User:
    """Somebody who sends requests; groups as an authenticator would give them."""

    name: str
    groups: tuple[str, ...] = ("system:authenticated",)

    @classmethod
    def service_account(cls, namespace: str, name: str) -> Self:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return cls(f"system:serviceaccount:{namespace}:{name}", groups)

    @classmethod
    def kubelet(cls, node: str) -> Self:
        return cls(f"system:node:{node}", ("system:nodes", "system:authenticated"))


OPERATOR = User.service_account(names.SYSTEM_NAMESPACE, names.SERVICE_ACCOUNT)


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    code: int
    body: Json

    @property
    def accepted(self) -> bool:
        return self.code < 300

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


@dataclass
class Api:
    """Requests to one API server. Without a user it is the platform engineer's (system:masters)."""

    client: httpx.Client
    user: User | None = None

    @classmethod
    def from_kubeconfig(cls, path: Path, local_address: str | None = None) -> Self:
        config = yaml.safe_load(path.read_text())
        current = next(c for c in config["contexts"] if c["name"] == config["current-context"])["context"]
        cluster = next(c for c in config["clusters"] if c["name"] == current["cluster"])["cluster"]
        user = next(u for u in config["users"] if u["name"] == current["user"])["user"]
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        transport = httpx.HTTPTransport(verify=_trust(cluster, user), local_address=local_address)
        return cls(httpx.Client(base_url=cluster["server"], headers=headers, timeout=30, transport=transport))

    def as_user(self, user: User | None) -> "Api":
        return Api(self.client, user)

    def send(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Answer:
        headers = [("Content-Type", content_type)]
        if self.user:
            headers.append(("Impersonate-User", self.user.name))
            headers += [("Impersonate-Group", group) for group in self.user.groups]
        answer = self.client.request(method, path, json=body, headers=headers)
        try:
            parsed = answer.json()
        except ValueError:
            parsed = {"message": answer.text}
        return Answer(answer.status_code, parsed)

    def get(self, path: str) -> Json:
        return self.must("GET", path)

    def must(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Json:
        answer = self.send(method, path, body, content_type)
        assert answer.accepted, f"{method} {path}: {answer.code} {answer.message}"
        return answer.body

    # -- pods ---------------------------------------------------------------------------------------
    def create_pod(self, pod: Json, namespace: str, *, dry_run: bool = False) -> Answer:
        query = "?dryRun=All" if dry_run else ""
        return self.send("POST", pods(namespace) + query, pod)

    def patch_pod(self, pod: Json, patch: Any, content_type: str = MERGE, subresource: str = "") -> Answer:
        return self.send("PATCH", pod_path(pod) + subresource, patch, content_type)

    def release(self, pod: Json, selector: Mapping[str, str]) -> Json:
        """Release a gated pod in one PATCH, the way the operator does it."""
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": pod["metadata"]["uid"]},
            {"op": "test", "path": "/spec/schedulingGates/0/name", "value": names.GATE},
            {"op": "remove", "path": "/spec/schedulingGates/0"},
            {"op": "add", "path": "/spec/nodeSelector", "value": dict(selector)},
            {
                "op": "add",
                "path": "/spec/tolerations/-",
                "value": {"key": names.DEFAULT_RESOURCE, "operator": "Exists", "effect": names.TAINT_EFFECT},
            },
            {"op": "add", "path": "/metadata/labels/gpugrant.io~1grant", "value": "pretrain"},
            {"op": "add", "path": "/metadata/finalizers", "value": [names.FINALIZER]},
        ]
        answer = self.as_user(OPERATOR).patch_pod(pod, patch, JSON_PATCH)
        assert answer.accepted, answer.message
        return answer.body


def pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def pod_path(pod: Json) -> str:
    return f"{pods(pod['metadata']['namespace'])}/{pod['metadata']['name']}"


def wait_for_default_account(api: Api, namespace: str) -> None:
    """Wait for what a controller makes in every namespace; without it no pod is accepted."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    eventually(lambda: api.send("GET", path).accepted, f"default service account of {namespace}")


def wait_until_gone(api: Api, path: str) -> None:
    eventually(lambda: api.send("GET", path).code == 404, f"{path} is gone")


def fresh_name(prefix: str) -> str:
    """Return a name that no other object of this run has."""
    return f"{prefix}-{next(_serial)}"


def eventually(look: Callable[[], T], what: str, seconds: float = 30) -> T:
    """Return look()'s first true answer; policies and controllers act within a second or two."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(0.05)
    raise AssertionError(f"not seen in {seconds} s: {what}")


def _trust(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif "certificate-authority-data" in cluster:
        context.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    elif "certificate-authority" in cluster:
        context.load_verify_locations(cluster["certificate-authority"])
    if "client-certificate" in user:
        context.load_cert_chain(user["client-certificate"], user["client-key"])
    return context
