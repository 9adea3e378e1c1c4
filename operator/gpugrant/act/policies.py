"""The two lists that stand inside the admission policies: GPU resource names and exempt namespaces.

Owns reading and rewriting them, as pure functions over a policy as the API returns it; who sends the patch
is elsewhere. A literal list in CEL is what keeps the gate cheap (a parameter object costs every pod of the
cluster half a millisecond a pool, and fails pods while it warms up), so the operator edits the literal.
In each policy either list stands once, in a match condition or a variable with a fixed name.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from gpugrant.names import DEFAULT_RESOURCE, DEVICE_CLASS_PREFIX

JsonPatch: TypeAlias = list[dict[str, Any]]

# Names of the match conditions and variables that carry a list; the manifests say the same.
_RESOURCES: Final = frozenset({"asks-for-gpus", "resources"})
_EXEMPT: Final = frozenset({"exempt-namespaces"})

# A CEL list of string literals: 'a', 'b'. Our names hold no quote, so none is escaped.
_LITERAL: Final = re.compile(r"\[\s*(?:'[^']*'\s*(?:,\s*'[^']*'\s*)*)?\]")
# ".orValue([])" is an empty list too, and not ours: ours follows "in" or is all there is.
_LIST: Final = re.compile(rf"(?:(?<=\bin )|\A\s*){_LITERAL.pattern}")
_RESOURCE_NAME: Final = re.compile(r"[a-z0-9][-.a-z0-9]{0,252}/[A-Za-z0-9][-._A-Za-z0-9]{0,62}")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class PolicyIsForeign(ValueError):
    """The policy does not carry the list where gpugrant's own manifests put it."""


def resources_of(policy: Mapping[str, Any]) -> frozenset[str]:
    """Return the GPU resource names that the policy knows."""
    return _read(policy, _RESOURCES)


def exempt_of(policy: Mapping[str, Any]) -> frozenset[str]:
    """Return the namespaces that the policy leaves alone."""
    return _read(policy, _EXEMPT)


def patch_for(
    policy: Mapping[str, Any], *, resources: Iterable[str], exempt: Iterable[str]
) -> JsonPatch | None:
    """Return the JSON patch that makes the policy's lists the wanted ones, or None if they are already.

    The patch tests the resourceVersion, so that a policy edited meanwhile answers 422 instead of losing that
    edit. (A test of the expression itself never holds: the API server compares escaped JSON, and CEL is full
    of && and <.) Raises PolicyIsForeign where a list is not found, ValueError for a name that is none, or for
    no resource at all (that would open the gate).
    """
    changes = _replace(policy, _RESOURCES, _checked_resources(resources))
    changes += _replace(policy, _EXEMPT, _checked_namespaces(exempt))
    if not changes:
        return None
    version = policy["metadata"]["resourceVersion"]
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *changes]


def _checked_resources(names: Iterable[str]) -> frozenset[str]:
    wanted = frozenset(names)
    if not wanted:
        raise ValueError(f"no resource name is left; keep at least {DEFAULT_RESOURCE}")
    for name in wanted:
        if not _RESOURCE_NAME.fullmatch(name) or name.startswith(DEVICE_CLASS_PREFIX):
            raise ValueError(f"not the name of an extended resource: {name!r}")
    return wanted


def _checked_namespaces(names: Iterable[str]) -> frozenset[str]:
    wanted = frozenset(names)
    for name in wanted:
        if not _NAMESPACE.fullmatch(name):
            raise ValueError(f"not the name of a namespace: {name!r}")
    return wanted


def _place(policy: Mapping[str, Any], names: frozenset[str]) -> tuple[str, str]:
    """Return the JSON pointer and text of the one expression that carries the list."""
    spec = policy.get("spec", {})
    found = [
        (f"/spec/{field}/{index}/expression", str(entry.get("expression", "")))
        for field in ("matchConditions", "variables")
        for index, entry in enumerate(spec.get(field) or [])
        if entry.get("name") in names
    ]
    if len(found) != 1 or len(_LIST.findall(found[0][1])) != 1:
        name = policy.get("metadata", {}).get("name", "?")
        raise PolicyIsForeign(f"policy {name}: expected one list in one of {sorted(names)}")
    return found[0]


def _read(policy: Mapping[str, Any], names: frozenset[str]) -> frozenset[str]:
    _, expression = _place(policy, names)
    match = _LIST.search(expression)
    assert match is not None  # _place counted it
    return frozenset(re.findall(r"'([^']*)'", match.group()))


def _replace(policy: Mapping[str, Any], names: frozenset[str], wanted: frozenset[str]) -> JsonPatch:
    if _read(policy, names) == wanted:
        return []
    path, expression = _place(policy, names)
    literal = "[" + ", ".join(f"'{name}'" for name in sorted(wanted)) + "]"
    return [{"op": "replace", "path": path, "value": _LIST.sub(lambda _: literal, expression)}]
