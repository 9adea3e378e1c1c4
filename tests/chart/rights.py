"""What RBAC grants and what was really asked for, as comparable values."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.client import JsonObject


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource; a namespace where a Role gives it, a name where resourceNames narrow it."""

    namespace: str
    group: str
    resource: str
    verb: str
    name: str = ""

    def covers(self, asked: "Right") -> bool:
        """Say whether this right allows a request."""
        return (
            (self.group, self.resource, self.verb) == (asked.group, asked.resource, asked.verb)
            and self.namespace in ("", asked.namespace)
            and self.name in ("", asked.name)
        )


def granted(manifests: Iterable[JsonObject], names: Iterable[str]) -> set[Right]:
    """Return the rights in the roles of these names, each verb, resource and name by itself."""
    found: set[Right] = set()
    for role in manifests:
        if role["kind"] in ("ClusterRole", "Role") and role["metadata"]["name"] in names:
            for rule in role["rules"]:
                found.update(
                    Right(role["metadata"].get("namespace", ""), *parts)
                    for parts in itertools.product(
                        rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", [""])))
    return found


def asked(log: Path, user: str) -> Iterator[tuple[Right, bool, str]]:
    """Yield every request of a user on a resource: what it was, whether it was allowed, and by which agent."""
    for line in log.read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        about = event.get("objectRef")
        if event["user"]["username"] != user or not about:
            continue
        resource = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
        place, group, name = (about.get(key, "") for key in ("namespace", "apiGroup", "name"))
        right = Right(place, group, resource, event["verb"], name)
        allowed = event["annotations"]["authorization.k8s.io/decision"] == "allow"
        yield right, allowed, event.get("userAgent", "")
