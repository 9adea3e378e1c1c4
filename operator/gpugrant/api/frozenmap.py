"""A mapping for frozen models: it cannot change and can be hashed."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

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
        return core_schema.no_info_before_validator_function(
            lambda given: dict(given) if isinstance(given, Mapping) else given,
            core_schema.no_info_after_validator_function(
                cls,
                handler.generate_schema(_dictionary_like(source)),
                serialization=core_schema.plain_serializer_function_ser_schema(_plain),
            ),
        )


def _dictionary_like(source: Any) -> Any:
    """Return dict[str, V] for FrozenMap[V]."""
    return dict.__class_getitem__((str, *get_args(source)))


def _plain(items: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a FrozenMap holds as JSON can carry it."""
    return {
        key: value.model_dump(mode="json", by_alias=True, exclude_none=True)
        if isinstance(value, BaseModel)
        else value
        for key, value in items.items()
    }
