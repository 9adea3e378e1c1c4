"""The base of the API's models: frozen, camelCase on the wire, with rules between fields and across updates.

A ``Rule`` or ``Transition`` holds both halves of a check, as ``gpugrant.api.constraints`` does for single
values: the kinds' modules state what must hold, ``gpugrant.api.crd`` collects the schemas.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel, to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from gpugrant.api.constraints import VALIDATIONS, cel_string

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z.]+)\}")


@dataclass(frozen=True)
class Rule:
    """What must hold between the fields of one object.

    ``{field}`` in the message stands for the value of a string field with a limit, ``{spec.field}`` for one
    further down. Not of a number: the API server takes ``string(int)`` for unbounded and refuses the CRD.
    """

    holds: Callable[[Any], bool]
    message: str
    cel: str = ""  # absent only in models that are no part of a CRD
    field: str = ""  # wire name, for the API server's fieldPath

    def explain(self, given: Any) -> str:
        """Return the message with the object's own values in it."""
        return _PLACEHOLDER.sub(lambda found: str(_value_at(given, found[1])), self.message)

    def schema(self) -> dict[str, str]:
        """Return the rule as an entry of x-kubernetes-validations."""
        made = {"rule": self.cel, "message": re.sub(r" *\([^()]*\{[^()]*\)", "", self.message)}
        if _PLACEHOLDER.search(self.message):
            made["messageExpression"] = _cel_message(self.message)
        if self.field:
            made["fieldPath"] = f".{self.field}"
        return made


@dataclass(frozen=True)
class Transition:
    """What must hold between an object as it was and as it would become."""

    cel: str
    holds: Callable[[Any, Any], bool]
    message: str
    field: str = ""  # wire name with dots, for the API server's fieldPath

    def schema(self) -> dict[str, str]:
        """Return the rule as an entry of x-kubernetes-validations."""
        made = {"rule": self.cel, "message": self.message}
        if self.field:
            made["fieldPath"] = f".{self.field}"
        return made


class ApiModel(BaseModel):
    """A frozen object of the API: camelCase on the wire, snake_case in Python, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[Sequence[Rule]] = ()
    transitions: ClassVar[Sequence[Transition]] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        """Take a null as absent, as the API server does where a field is not nullable."""
        if isinstance(given, Mapping):
            known = {info.alias for info in cls.model_fields.values()}
            return {key: value for key, value in given.items() if value is not None or key not in known}
        return given

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule.explain(self) for rule in self.rules if not rule.holds(self)]
        if broken:
            raise PydanticCustomError("rule", "{words}", {"words": "; ".join(broken)})
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = handler(schema)
        rules: list[Rule | Transition] = [*cls.rules, *cls.transitions]
        checks = [rule.schema() for rule in rules if rule.cel]
        if checks:
            handler.resolve_ref_schema(made)[VALIDATIONS] = checks
        return made

    @classmethod
    def from_wire(cls, given: Any) -> Self:
        """Return the model of what JSON or YAML gave, in camelCase only; raises ValidationError."""
        return cls.model_validate(given, by_alias=True, by_name=False)

    def to_wire(self) -> dict[str, Any]:
        """Return the object as JSON carries it, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def refused_changes(old: ApiModel, new: ApiModel) -> tuple[str, ...]:
    """Return what the API server would say to an update from ``old`` to ``new``; nothing if it is allowed."""
    return tuple(
        f"{change.field}: {change.message}" for change in new.transitions if not change.holds(old, new)
    )


def _cel_message(message: str) -> str:
    """Return a CEL expression that yields the message with the object's values in it."""
    parts = _PLACEHOLDER.split(message)
    return " + ".join(
        f"self.{part}" if position % 2 else cel_string(part) for position, part in enumerate(parts) if part
    )


def _value_at(given: Any, path: str) -> Any:
    """Return the value under a dotted wire path of a model."""
    for name in path.split("."):
        given = getattr(given, to_snake(name))
    return given
