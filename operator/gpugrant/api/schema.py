"""The building blocks of the API's models: one declaration, checked by pydantic and by the API server.

A ``Format``, ``Unique``, ``Rule`` or ``Transition`` holds both halves of a check: the Python half runs when a
model is made, the other half goes into the CRD as OpenAPI or CEL. Only this module knows both; the kinds'
modules state what must hold, ``gpugrant.api.crd`` collects the schemas.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel, to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

VALIDATIONS: Final = "x-kubernetes-validations"
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z.]+)\}")
V = TypeVar("V")


class FrozenMap(Mapping[str, V]):
    """A mapping that cannot change and can be hashed, so that the models that carry it can be too."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (values,) = source.__args__
        return core_schema.no_info_before_validator_function(
            lambda given: dict(given) if isinstance(given, Mapping) else given,
            core_schema.no_info_after_validator_function(
                cls,
                handler.generate_schema(dict[str, values]),
                serialization=core_schema.plain_serializer_function_ser_schema(_plain),
            ),
        )


def _plain(items: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a FrozenMap holds as JSON can carry it."""
    return {
        key: value.model_dump(mode="json", by_alias=True, exclude_none=True)
        if isinstance(value, BaseModel)
        else value
        for key, value in items.items()
    }


@dataclass(frozen=True)
class Format:
    """A string of at most ``longest`` characters that matches ``pattern``; ``words`` tell a person what to write."""

    pattern: str
    words: str
    longest: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.no_info_after_validator_function(
            self._verify, core_schema.str_schema(strict=True, max_length=self.longest)
        )

    def _verify(self, given: str) -> str:
        if not re.fullmatch(self.pattern, given):
            raise PydanticCustomError("format", "{words}", {"words": self.words})
        return given

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        del schema, handler
        rule = f"self.matches({cel_string(f'^({self.pattern})$')})"
        return {"type": "string", "maxLength": self.longest, VALIDATIONS: [{"rule": rule, "message": self.words}]}


@dataclass(frozen=True)
class Whole:
    """An integer from ``least`` to ``most``; 8.0 is taken for 8, as the API server does."""

    least: int | None = None
    most: int | None = None
    bits: int = 32

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.no_info_before_validator_function(
            lambda given: int(given) if isinstance(given, float) and given.is_integer() else given,
            core_schema.int_schema(strict=True, ge=self.least, le=self.most),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        del schema, handler
        bounds = {"minimum": self.least, "maximum": self.most}
        return {"type": "integer", "format": f"int{self.bits}"} | {k: v for k, v in bounds.items() if v is not None}


@dataclass(frozen=True)
class Unique:
    """A list without duplicates: of plain values, or of objects told apart by ``keys`` (wire names)."""

    keys: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._verify, handler(source))

    def _verify(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        seen: set[Any] = set()
        for index, item in enumerate(given):
            identity = tuple(getattr(item, to_snake(key)) for key in self.keys) if self.keys else item
            if identity in seen:
                shown = dict(zip(self.keys, identity, strict=True)) if self.keys else identity
                raise PydanticCustomError(
                    "duplicate", "Duplicate value: {shown}", {"shown": str(shown), "index": index}
                )
            seen.add(identity)
        return given

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(schema)
        made["x-kubernetes-list-type"] = "map" if self.keys else "set"
        if self.keys:
            made["x-kubernetes-list-map-keys"] = list(self.keys)
        return made


@dataclass(frozen=True)
class Rule:
    """What must hold between the fields of one object.

    ``{field}`` in the message stands for the value of a string field with a limit, ``{spec.field}`` for one further
    down. Numbers are left out: the API server reckons ``string(int)`` as unbounded and refuses the CRD for its cost.
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
            return {key: value for key, value in given.items() if value is not None}
        return given

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule.explain(self) for rule in self.rules if not rule.holds(self)]
        if broken:
            raise PydanticCustomError("rule", "{words}", {"words": "; ".join(broken)})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(schema)
        checks = [check.schema() for check in (*cls.rules, *cls.transitions) if check.cel]
        if checks:
            handler.resolve_ref_schema(made)[VALIDATIONS] = checks
        return made

    def to_wire(self) -> dict[str, Any]:
        """Return the object as JSON carries it, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def refused_changes(old: ApiModel, new: ApiModel) -> tuple[str, ...]:
    """Return what the API server would say to an update from ``old`` to ``new``; nothing where it is allowed."""
    return tuple(
        f"{change.field}: {change.message}" for change in new.transitions if not change.holds(old, new)
    )


def cel_string(text: str) -> str:
    """Return text as a CEL string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _cel_message(message: str) -> str:
    """Return a CEL expression that yields the message with the object's values in it."""
    parts = _PLACEHOLDER.split(message)
    return " + ".join(
        f"self.{part}" if position % 2 else cel_string(part)
        for position, part in enumerate(parts)
        if part
    )


def _value_at(given: Any, path: str) -> Any:
    """Return the value under a dotted wire path of a model."""
    for name in path.split("."):
        given = getattr(given, to_snake(name))
    return given
