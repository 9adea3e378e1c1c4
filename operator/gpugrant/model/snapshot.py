"""Everything a plan is made from."""

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from gpugrant.config import Settings
from gpugrant.model.node import Node
from gpugrant.model.objects import Grant, Namespace, Pool, Quota
from gpugrant.model.pod import Pod

_EMPTY: Mapping[str, object] = MappingProxyType({})


class Snapshot(Struct, frozen=True):
    """The cluster at one moment. Pods, grants by uid; the rest by name."""

    settings: Settings
    nodes: Mapping[str, Node] = _EMPTY  # type: ignore[assignment]
    pods: Mapping[str, Pod] = _EMPTY  # type: ignore[assignment]
    namespaces: Mapping[str, Namespace] = _EMPTY  # type: ignore[assignment]
    pools: Mapping[str, Pool] = _EMPTY  # type: ignore[assignment]
    quotas: Mapping[str, Quota] = _EMPTY  # type: ignore[assignment]
    grants: Mapping[str, Grant] = _EMPTY  # type: ignore[assignment]
