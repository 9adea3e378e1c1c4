"""Who is told of what is observed: the world, and the meter where there is one."""

from collections.abc import Mapping
from typing import Protocol

from gpugrant.config import Settings
from gpugrant.model.node import Node
from gpugrant.model.objects import Grant, Namespace, Pool, Quota
from gpugrant.model.pod import Pod


class World(Protocol):
    """What decide/ takes in. Every method is synchronous and cheap."""

    @property
    def pods(self) -> Mapping[str, Pod]:
        """GPU pods by uid, as they were taken."""

    def put_pod(self, pod: Pod) -> None:
        """Take a GPU pod as it is now."""

    def drop_pod(self, uid: str) -> None:
        """Forget a pod."""

    def account_anew(self) -> list[Pod]:
        """Look again, now that everything was seen once, whether pods' marks are to be believed; return others'."""

    def put_node(self, node: Node) -> None:
        """Take a node as it is now."""

    def drop_node(self, name: str) -> None:
        """Forget a node."""

    def put_namespace(self, namespace: Namespace) -> None:
        """Take a namespace."""

    def drop_namespace(self, name: str) -> None:
        """Forget a namespace."""

    def put_pool(self, pool: Pool) -> None:
        """Take a pool."""

    def drop_pool(self, name: str) -> None:
        """Forget a pool."""

    def put_quota(self, quota: Quota) -> None:
        """Take a tenant's quota."""

    def drop_quota(self, name: str) -> None:
        """Forget a tenant's quota."""

    def put_grant(self, grant: Grant) -> None:
        """Take a grant."""

    def drop_grant(self, uid: str) -> None:
        """Forget a grant."""

    def set_settings(self, settings: Settings) -> None:
        """Take new settings."""

    def set_overhead(self, node: str, cpu_milli: int, memory: int) -> None:
        """Take what pods without GPUs ask of a node."""


class Meter(Protocol):
    """What the meter takes in."""

    def observe_pod(self, pod: Pod) -> None:
        """Take note of a pod as it is now."""

    def pod_gone(self, pod: Pod, at: int, seen: int | None = None) -> None:
        """Take note that a pod's object is gone; seen: until when it was watched."""

    def observe_grant(self, grant: Grant) -> None:
        """Take note of a grant's term."""

    def observe_quota(self, quota: Quota) -> None:
        """Take note of a tenant's name."""

    def observe_node(self, node: Node, seen_until: int | None = None) -> None:
        """Take note of a node as it is now; seen_until: till when it was watched, if this went unseen."""

    def node_gone(self, name: str, at: int, seen_until: int | None = None) -> None:
        """Take note that a node's object is gone."""

    def world_changed(self, namespace: str = "") -> None:
        """Take note that pools, settings or a namespace changed, by which terms are read."""

    def observe_settings(self, digest: str, text: str, settings: Settings) -> None:
        """Take note of the settings now in force."""
