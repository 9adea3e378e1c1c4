"""What all kinds have in common: metadata, conditions, the outer object."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from gpugrant.api.constraints import Unique
from gpugrant.api.fields import Count, ObjectName
from gpugrant.api.schema import ApiModel


class Condition(ApiModel):
    """One aspect of an object's state, by the Kubernetes API conventions."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """The aspect, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """One CamelCase word for machines and tables."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """A sentence for people, with the fix in it where there is one."""
    observed_generation: Count | None = None
    """The generation of the spec that this was judged by."""
    last_transition_time: Annotated[str, Field(max_length=35, json_schema_extra={"format": "date-time"})]
    """When the status last changed."""


Conditions = Annotated[tuple[Condition, ...], Field(strict=False, max_length=32), Unique(("type",))]


class Metadata(ApiModel):
    """The part of an object's metadata that gpugrant reads; the API server owns the rest."""

    model_config = ConfigDict(extra="ignore")

    name: ObjectName
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 1
    deletion_timestamp: str = ""
    creation_timestamp: str = ""


class Column(ApiModel):
    """One column of ``kubectl get``."""

    name: str
    path: str
    type: Literal["string", "integer", "date"] = "string"
    priority: int = 0


class Kind(ApiModel):
    """What a kind is called, and where and how it is shown."""

    kind: str
    plural: str
    short_name: str
    namespaced: bool
    columns: tuple[Column, ...]


class ApiObject(ApiModel):
    """An object of one of our kinds."""

    about: ClassVar[Kind]

    api_version: Literal["gpugrant.io/v1alpha1"]
    metadata: Metadata


READY_REASON = '.status.conditions[?(@.type=="Ready")].reason'
