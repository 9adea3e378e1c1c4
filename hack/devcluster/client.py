"""A small client of the API server for the dev cluster and the tests: JSON in, JSON out, nothing cached.

On purpose not the operator's own client: what tests see must not pass through the code they judge.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from multidict import CIMultiDict

JsonObject = dict[str, Any]
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

# Plurals that are not the kind in lower case with an s.
_PLURALS = {
    "TenantQuota": "tenantquotas", "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "MutatingAdmissionPolicy": "mutatingadmissionpolicies", "PriorityClass": "priorityclasses",
    "NetworkPolicy": "networkpolicies", "Ingress": "ingresses", "StorageClass": "storageclasses",
    "RuntimeClass": "runtimeclasses", "DeviceClass": "deviceclasses",
}
_CLUSTER_SCOPED = frozenset(
    {
        "Namespace", "Node", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass",
        "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding", "GpuPool", "TenantQuota", "UsageReport", "DeviceClass", "RuntimeClass",
        "PersistentVolume", "StorageClass",
    }
)


class Refused(Exception):
    """The API server said no: HTTP status, reason, message, and the whole Status."""

    def __init__(self, status: int, body: JsonObject) -> None:
        super().__init__(f"{status} {body.get('reason', '')}: {body.get('message', '')}")
        self.status = status
        self.body = body

    @property
    def reason(self) -> str:
        """The reason in the API server's words, for instance NotFound."""
        return str(self.body.get("reason", ""))

    @property
    def message(self) -> str:
        """What a person reads."""
        return str(self.body.get("message", ""))


def path_of(api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return the path of a kind's collection, or of one object of it."""
    base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    parts = [base]
    if namespace and kind not in _CLUSTER_SCOPED:
        parts.append(f"namespaces/{namespace}")
    parts.append(_PLURALS.get(kind, f"{kind.lower()}s"))
    if name:
        parts.append(name)
    return "/".join(parts)


def object_path(manifest: Mapping[str, Any]) -> str:
    """Return the path of the object that ``manifest`` describes (namespace "default" where it names none)."""
    meta = manifest["metadata"]
    return path_of(manifest["apiVersion"], manifest["kind"], meta.get("namespace", "default"), meta["name"])


def load_manifests(*paths: Path) -> list[JsonObject]:
    """Return the objects of YAML files, in order."""
    return [each for path in paths for each in yaml.safe_load_all(path.read_text()) if each]


class KubeClient:
    """A session with one API server as one user. Use as `async with`; paths as in the API's own URLs."""

    def __init__(self, server: str, ca_file: Path, token: str, impersonate: Mapping[str, Any] | None = None) -> None:
        self.server = server
        self.ca_file = ca_file
        self._token = token
        self._impersonate = dict(impersonate or {})
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        connector = aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=30)
        headers = [("Authorization", f"Bearer {self._token}"), ("Accept", "application/json")]
        if self._impersonate:
            headers.append(("Impersonate-User", self._impersonate["user"]))
            headers.extend(("Impersonate-Group", group) for group in self._impersonate.get("groups", ()))
        self._session = aiohttp.ClientSession(connector=connector, headers=CIMultiDict(headers))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def as_user(self, user: str, *groups: str) -> "KubeClient":
        """Return a client (to be entered) that acts as ``user`` by impersonation; this one must be an admin."""
        return KubeClient(self.server, self.ca_file, self._token,
                          {"user": user, "groups": [*groups, "system:authenticated"]})

    def as_service_account(self, namespace: str, name: str) -> "KubeClient":
        """Return a client (to be entered) that acts as a service account."""
        return self.as_user(f"system:serviceaccount:{namespace}:{name}", "system:serviceaccounts",
                            f"system:serviceaccounts:{namespace}")

    # -- requests ------------------------------------------------------------------------------------

    async def send(
        self, method: str, path: str, body: Any = None, *, params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> JsonObject:
        """Send one request; return the answer. Raises Refused."""
        assert self._session is not None, "enter the client first"
        async with self._session.request(
            method, self.server + path, params=params, headers={"Content-Type": content_type},
            data=None if body is None else json.dumps(body).encode(),
        ) as response:
            text = await response.read()
            if response.status >= 400:
                raise Refused(response.status, _as_status(text))
            answer: JsonObject = json.loads(text) if text else {}
            return answer

    async def get(self, path: str, **params: str) -> JsonObject:
        """Return the object (or list) at ``path``."""
        return await self.send("GET", path, params=params)

    async def list(self, path: str, **params: str) -> list[JsonObject]:
        """Return the items of a collection."""
        answer = await self.send("GET", path, params=params)
        items: list[JsonObject] = answer.get("items") or []
        return items

    async def create(self, manifest: JsonObject, *, strict: bool = True) -> JsonObject:
        """Create an object; with ``strict`` unknown fields are refused, as kubectl asks for."""
        params = {"fieldValidation": "Strict"} if strict else {}
        return await self.send("POST", object_path(manifest).rpartition("/")[0], manifest, params=params)

    async def create_generated(self, collection: str, manifest: JsonObject) -> JsonObject:
        """Create an object whose name the API server makes (generateName) in ``collection``."""
        return await self.send("POST", collection, manifest, params={"fieldValidation": "Strict"})

    async def apply(self, manifest: JsonObject, manager: str = "platform-engineer") -> JsonObject:
        """Apply an object server-side, taking over fields of others."""
        return await self.send(
            "PATCH", object_path(manifest), manifest, content_type=APPLY,
            params={"fieldManager": manager, "force": "true", "fieldValidation": "Strict"})

    async def patch(self, path: str, body: Any, content_type: str = MERGE_PATCH) -> JsonObject:
        """Patch an object."""
        return await self.send("PATCH", path, body, content_type=content_type)

    async def replace(self, manifest: JsonObject) -> JsonObject:
        """Replace (PUT) an object."""
        return await self.send("PUT", object_path(manifest), manifest)

    async def delete(self, path: str, grace_seconds: int | None = None, *, missing_ok: bool = False) -> None:
        """Delete an object, or all of a collection."""
        body = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        try:
            await self.send("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **body})
        except Refused as refused:
            if not (missing_ok and refused.status == 404):
                raise

    async def token_for(self, namespace: str, name: str, seconds: int = 30 * 86400) -> str:
        """Return a token of a service account."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                   "spec": {"expirationSeconds": seconds}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = await self.send("POST", path, request)
        return str(answer["status"]["token"])

    # -- watching ------------------------------------------------------------------------------------

    async def watch(self, path: str, **params: str) -> AsyncGenerator[tuple[str, JsonObject]]:
        """Yield (ADDED | MODIFIED | DELETED, object) of a collection from now on, existing objects first.

        Ends when the server ends it. Raises Refused where the server sends an ERROR.
        """
        assert self._session is not None, "enter the client first"
        query = {"watch": "1", **params}
        async with self._session.get(
            self.server + path, params=query, timeout=aiohttp.ClientTimeout(total=None, sock_read=None)
        ) as response:
            if response.status >= 400:
                raise Refused(response.status, _as_status(await response.read()))
            rest = b""
            try:
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise Refused(int(event["object"].get("code", 500)), event["object"])
                        yield event["type"], event["object"]
            finally:
                # Left in the middle: else it waits for the server's farewell, and the loop may end before that comes.
                if response.connection is not None and response.connection.transport is not None:
                    response.connection.transport.abort()

    async def wait_for(self, path: str, holds: Any, seconds: float = 30.0) -> JsonObject:
        """Wait, on a watch, until ``holds(object)`` is true for the object at ``path``; return it.

        ``holds`` gets None while there is no such object. Raises TimeoutError with what was seen last.
        """
        collection, _, name = path.rpartition("/")
        seen: JsonObject | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        seen = await self.get(path)
                    except Refused as refused:
                        if refused.status != 404:
                            raise
                        seen = None
                    if holds(seen):
                        return seen or {}
                    version = (await self.get(collection, limit="1"))["metadata"]["resourceVersion"]
                    try:
                        again = await self.get(path)
                    except Refused:
                        again = None
                    if again != seen:
                        continue
                    async with aclosing(self.watch(
                        collection, fieldSelector=f"metadata.name={name}", resourceVersion=version, timeoutSeconds="60"
                    )) as events:
                        async for kind, seen_now in events:
                            seen = None if kind == "DELETED" else seen_now
                            if holds(seen):
                                return seen or {}
        except TimeoutError:
            raise TimeoutError(f"{path}: not as awaited after {seconds:g} s; seen last: {_brief(seen)}") from None

    async def wait_gone(self, path: str, seconds: float = 30.0) -> None:
        """Wait until there is no object at ``path``."""
        await self.wait_for(path, lambda seen: seen is None, seconds)


def _brief(seen: JsonObject | None) -> str:
    """Return what a person looks at first of an object that is not as it should be."""
    if seen is None:
        return "no such object"
    meta = {key: seen["metadata"].get(key) for key in ("labels", "annotations", "finalizers", "deletionTimestamp")}
    return json.dumps({**{k: v for k, v in meta.items() if v}, "status": seen.get("status")}, ensure_ascii=False)[:2000]


def _as_status(text: bytes) -> JsonObject:
    try:
        status = json.loads(text)
    except ValueError:
        status = None
    return status if isinstance(status, dict) else {"reason": "Unknown", "message": text.decode(errors="replace")[:500]}
