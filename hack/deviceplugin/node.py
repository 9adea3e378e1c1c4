"""The Node this runs on, through the API server: which profile people gave it, and the labels it is to carry.

In a pod only, with its service account; it needs get and patch on nodes.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from deviceplugin.profiles import all_label_keys

PROFILE_LABEL, COUNT_LABEL = "fake-gpu/profile", "fake-gpu/count"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = aiohttp.ClientTimeout(total=10)


class Refused(RuntimeError):
    """The API server did not do it; the message says what it said."""


def server_of_this_pod() -> str:
    """Return the API server's address as a pod is told it. Raises Refused outside a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise Refused("not in a pod: name the profile with --profile, and leave --label-node out")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


class Node:
    """One Node object. account is the folder with the token and the authority to believe."""

    def __init__(self, name: str, server: str, account: Path = _ACCOUNT) -> None:
        self.name, self._url, self._account = name, f"{server}/api/v1/nodes/{name}", account

    async def labels(self) -> dict[str, str]:
        """Return its labels. Raises Refused."""
        node = await self._ask("GET", None)
        return dict(node["metadata"].get("labels") or {})

    async def label(self, labels: Mapping[str, str]) -> None:
        """Give it these labels, and take those of other profiles off. Raises Refused."""
        patch = dict.fromkeys(all_label_keys()) | dict(labels)
        await self._ask("PATCH", {"metadata": {"labels": patch}})

    async def _ask(self, method: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        # The kubelet renews the token: read it each time.
        headers = {"Authorization": f"Bearer {(self._account / 'token').read_text().strip()}",
                   "Content-Type": "application/merge-patch+json"}
        authority = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        try:
            async with (
                aiohttp.ClientSession(timeout=_SECONDS) as session,
                session.request(method, self._url, json=body, headers=headers, ssl=authority) as answer,
            ):
                if answer.status != 200:
                    raise Refused(f"{method} node {self.name}: {answer.status}: {(await answer.text())[:300]}")
                told: dict[str, Any] = await answer.json()
                return told
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Refused(f"{method} node {self.name}: {error or type(error).__name__}") from None
