"""Writes to an API server, by its own count."""

import re
from collections import Counter

from devcluster.client import KubeClient

_WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


async def writes(admin: KubeClient) -> Counter[str]:
    """Return how many writes succeeded so far, as "PATCH pods/status"."""
    assert admin._session is not None
    async with admin._session.get(f"{admin.server}/metrics") as answer:
        page = await answer.text()
    found: Counter[str] = Counter()
    for line in page.splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        labels = dict(_LABEL.findall(line))
        if labels["verb"] in _WRITES and labels["code"].startswith("2") and not labels["dry_run"]:
            what = "/".join(part for part in (labels["resource"], labels["subresource"]) if part)
            found[f"{labels['verb']} {what}"] += int(float(line.rpartition(" ")[2]))
    return found
