"""What is wrong with an object, in lines that a person can act on: field, rule, what was given."""

import difflib
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import ErrorDetails

_SHOWN = 80  # characters of a bad value that are repeated in the message
# Where pydantic speaks of Python's types, speak of YAML's.
_WORDS = {
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "int_type": "must be a whole number, without quotes",
    "string_type": "must be a string; put it in quotes",
    "bool_type": "must be true or false",
}


def describe(error: ValidationError, model: type[BaseModel] | None = None) -> tuple[str, ...]:
    """Return one line for each thing that is wrong, in the API server's style: ``spec.gpus: Required value``.

    With the model given, an unknown field's line proposes the field that was probably meant.
    """
    return tuple(_line(detail, model) for detail in error.errors(include_url=False))


def _line(detail: ErrorDetails, model: type[BaseModel] | None) -> str:
    path = _path(detail["loc"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f'unknown field "{path}"{_proposal(detail["loc"], model)}'
    if kind == "missing":
        return f"{path}: Required value"
    words = _WORDS.get(kind, detail["msg"])
    if kind == "duplicate":
        return f"{path}[{detail['ctx']['index']}]: {words}"
    if kind == "rule":
        return f"{path}: {words}" if path else words
    shown = repr(detail["input"])
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return f"{path}: {words} (given: {shown})" if path else f"{words} (given: {shown})"


def _path(place: Sequence[int | str]) -> str:
    """Return a location as the API server writes it: spec.limits[0].gpus."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _proposal(place: Sequence[int | str], model: type[BaseModel] | None) -> str:
    """Return a hint at the field that was probably meant."""
    known = _wire_names(model, place[:-1]) if model else []
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _wire_names(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Return the wire names of the fields at a location, or nothing where that cannot be told."""
    schema = model.model_json_schema(by_alias=True)
    here = _resolve(schema, schema)
    for part in place:
        inner = here.get("items") if isinstance(part, int) else here.get("properties", {}).get(part)
        here = _resolve(inner or here.get("additionalProperties") or {}, schema)
    return list(here.get("properties", ()))


def _resolve(node: JsonSchemaValue, schema: JsonSchemaValue) -> JsonSchemaValue:
    """Follow references, and take the half of an optional field that is not null."""
    while True:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        elif "anyOf" in node:
            node = node["anyOf"][0]
        else:
            return node
