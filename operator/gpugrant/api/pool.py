"""GpuPool: the servers of one provider, GPU type and programme, and what of them is promised."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from gpugrant import names
from gpugrant.api.constraints import Unique, Whole, cel_string
from gpugrant.api.fields import (
    QUALIFIED_NAME_PATTERN,
    Count,
    Date,
    Gpus,
    GpusOrNone,
    LabelKey,
    LabelValue,
    LabelValueOrEmpty,
    Name,
    ResourceName,
    is_label_key,
)
from gpugrant.api.frozenmap import FrozenMap
from gpugrant.api.objects import READY_REASON, ApiObject, Column, Conditions, Kind
from gpugrant.api.schema import ApiModel, Rule

_MOST_LABELS: Final = 8


class NodeSelector(ApiModel):
    """Which nodes are the pool's."""

    match_labels: Annotated[
        FrozenMap[LabelValueOrEmpty],
        Field(min_length=1, max_length=_MOST_LABELS),
    ]
    """Labels that a node must have, all of them, with these values."""

    rules = (
        Rule(
            cel="self.matchLabels.all(key, key.size() <= 317 && key.matches("
            + cel_string(f"^{QUALIFIED_NAME_PATTERN}$")
            + "))",
            holds=lambda given: all(len(key) <= 317 and is_label_key(key) for key in given.match_labels),
            message="matchLabels: every key must be a label key such as nvidia.com/gpu.product",
            field="matchLabels",
        ),
    )


class PublicShare(ApiModel):
    """What of the pool is promised to the programme."""

    gpus: GpusOrNone
    """The promised number of GPUs."""
    fabrics: Annotated[tuple[LabelValue, ...], Field(strict=False, max_length=256), Unique()] = ()
    """The fabrics that are public. Absent: the operator chooses, whole fabrics first."""


class Delivery(ApiModel):
    """One instalment of the contract. What is contracted at a time is the sum of what was due by then."""

    gpus: Gpus
    """GPUs that are added to the pool."""
    public_gpus: GpusOrNone | None = None
    """How many of them are promised to the programme. Absent: all."""
    due: Date
    """The day from whose midnight, in the programme's zone, they count as contracted."""

    rules = (
        Rule(
            cel="!has(self.publicGpus) || self.publicGpus <= self.gpus",
            holds=lambda given: given.public_gpus is None or given.public_gpus <= given.gpus,
            message="publicGpus must be at most gpus: it says how many of them are promised",
            field="publicGpus",
        ),
    )


class GpuPoolSpec(ApiModel):
    """What a platform engineer declares about a pool."""

    provider: Name
    """The organisation that hosts the servers."""
    gpu_type: LabelValue
    """The product, as the node label nvidia.com/gpu.product says it."""
    programme: Name = "default"
    """The programme that the public share is promised to."""
    resource_name: ResourceName = names.DEFAULT_RESOURCE
    """The extended resource that the servers' device plugin offers."""
    node_selector: NodeSelector | None = None
    """Which nodes are the pool's. Absent: provider and product labels equal provider and gpuType."""
    fabric_label: LabelKey = names.FABRIC_LABEL
    """The node label whose value names the fast network a server is on."""
    gpus_per_server: Annotated[int, Whole(1, 1024)] = 8
    """GPUs in a healthy server. A server with fewer has the missing ones Failed."""
    public_share: PublicShare | None = None
    """What is promised to the programme. Absent: all of the pool."""
    delivery: Annotated[tuple[Delivery, ...], Field(strict=False, max_length=128), Unique(("due",))] = ()
    """The contract's instalments, earliest first. Absent: contracted is what is installed."""
    own_use: Literal["Open", "Granted"] = "Open"
    """Open: the provider's own namespaces use the own-use servers freely. Granted: by grants only."""
    backfill: Literal["Never", "FreeOwnUse"] = "Never"
    """Whether a failed public server is replaced out of free own use."""
    shared_tenancy: Literal["PerTenant", "Mixed"] = "PerTenant"
    """Whether a shared server serves one tenant at a time or several."""
    max_shared_servers: GpusOrNone | None = None
    """How many servers may be opened for shared grants at once. Absent: as many as are needed."""

    rules = (
        Rule(
            cel="!has(self.delivery) || self.delivery.all(i, part,"
            " i == 0 || self.delivery[i - 1].due <= part.due)",
            holds=lambda given: (
                [part.due for part in given.delivery] == sorted(part.due for part in given.delivery)
            ),
            message="delivery must be in order of due, earliest first",
            field="delivery",
        ),
        Rule(
            cel="!(has(self.resourceName) && self.resourceName.split('/')[0].endsWith('kubernetes.io'))",
            holds=lambda given: not given.resource_name.split("/")[0].endswith("kubernetes.io"),
            message="resourceName must not be one of Kubernetes' own names ({resourceName}); "
            "write the name the device plugin registers, such as nvidia.com/gpu",
            field="resourceName",
        ),
    )


class PoolGpus(ApiModel):
    """The pool's GPUs, whatever share they are in."""

    installed: Count = 0
    healthy: Count = 0
    failed: Count = 0


class ShareGpus(ApiModel):
    """The GPUs of one share."""

    installed: Count = 0
    promised: Count = 0
    granted: Count = 0
    free: Count = 0
    held: Count = 0


class PoolSummary(ApiModel):
    """Columns that one field cannot give."""

    public: str = ""
    """Held, granted and promised GPUs of the public share."""
    own_use: str = ""
    """Held GPUs and size of the own-use share."""
    why: str = ""
    """What is not as promised, in words."""


class GpuPoolStatus(ApiModel):
    """What the operator sees of a pool."""

    observed_generation: Count | None = None
    conditions: Conditions = ()
    servers: Count = 0
    gpus: PoolGpus | None = None
    public: ShareGpus | None = None
    own_use: ShareGpus | None = None
    summary: PoolSummary | None = None


class GpuPool(ApiObject):
    """The servers of one provider, GPU type and programme."""

    kind: Literal["GpuPool"]
    spec: GpuPoolSpec
    status: GpuPoolStatus | None = None

    about: ClassVar[Kind] = Kind(
        kind="GpuPool",
        plural="gpupools",
        short_name="gp",
        namespaced=False,
        columns=(
            Column(name="Programme", path=".spec.programme"),
            Column(name="Provider", path=".spec.provider"),
            Column(name="GPU", path=".spec.gpuType"),
            Column(name="GPUs", path=".status.gpus.installed", type="integer"),
            Column(name="Public (held/granted/promised)", path=".status.summary.public"),
            Column(name="Own-Use (held/size)", path=".status.summary.ownUse"),
            Column(name="Failed", path=".status.gpus.failed", type="integer"),
            Column(name="Status", path=READY_REASON),
            Column(name="Why", path=".status.summary.why", priority=1),
        ),
    )
    rules = (
        Rule(
            cel="self.metadata.name.size() <= 63",
            holds=lambda given: len(given.metadata.name) <= 63,
            message="metadata.name must be at most 63 characters: it becomes a label's value",
        ),
    )
