"""What a single value must be: one declaration, checked by pydantic and by the API server.

Each class holds both halves of a check: the Python half runs when a model is made, the other half goes into
the CRD as OpenAPI or CEL, with the same words. ``gpugrant.api.fields`` makes types of them.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

VALIDATIONS: Final = "x-kubernetes-validations"


@dataclass(frozen=True)
class Format:
    """A string of at most ``longest`` characters that matches ``pattern``; ``words`` tell what to write."""

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

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        del schema, handler
        rule = f"self.matches({cel_string(f'^({self.pattern})$')})"
        return {
            "type": "string",
            "maxLength": self.longest,
            VALIDATIONS: [{"rule": rule, "message": self.words}],
        }


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

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        del schema, handler
        bounds = {"minimum": self.least, "maximum": self.most}
        return {"type": "integer", "format": f"int{self.bits}"} | {
            k: v for k, v in bounds.items() if v is not None
        }


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

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = handler(schema)
        made["x-kubernetes-list-type"] = "map" if self.keys else "set"
        if self.keys:
            made["x-kubernetes-list-map-keys"] = list(self.keys)
        return made


def cel_string(text: str) -> str:
    """Return text as a CEL string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
