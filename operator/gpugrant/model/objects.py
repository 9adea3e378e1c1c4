"""Our own kinds and namespaces as the planner sees them: identity, spec, what we wrote last."""

from typing import Any

from msgspec import Struct

from gpugrant.api.grant import GpuGrantSpec
from gpugrant.api.pool import GpuPoolSpec
from gpugrant.api.quota import TenantQuotaSpec


class Namespace(Struct, frozen=True):
    """The labels of a namespace that rules rest on."""

    name: str
    tenant: str = ""
    provider: str = ""
    metering_off: bool = False
    terminating: bool = False


class Pool(Struct, frozen=True):
    """A GpuPool. ``spec`` is None where it does not parse; ``error`` then says why."""

    name: str
    uid: str
    version: str = ""
    generation: int = 1
    created: int = 0
    spec: GpuPoolSpec | None = None
    error: str = ""
    status: dict[str, Any] = {}


class Quota(Struct, frozen=True):
    """A TenantQuota; its name is the tenant."""

    name: str
    uid: str
    version: str = ""
    generation: int = 1
    created: int = 0
    spec: TenantQuotaSpec | None = None
    error: str = ""
    status: dict[str, Any] = {}


class Allocation(Struct, frozen=True):
    """Where a grant's seats are: status.allocation as it was written last."""

    pool: str
    fabric: str = ""
    servers: tuple[str, ...] = ()
    gpus: int = 0


class Grant(Struct, frozen=True):
    """A GpuGrant."""

    namespace: str
    name: str
    uid: str
    version: str = ""
    generation: int = 1
    created: int = 0
    deleting: bool = False
    spec: GpuGrantSpec | None = None
    error: str = ""
    allocation: Allocation | None = None
    status: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """Return namespace/name."""
        return f"{self.namespace}/{self.name}"
