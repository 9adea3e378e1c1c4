"""The CRDs, made from the models: ``python -m gpugrant.api.crd --write`` or ``--check``.

pydantic's JSON schema is turned into what a structural OpenAPI v3 schema allows: no references, no null, no
unions. What the API server cannot express is not lost: the models' rules are already in the schema as CEL.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from gpugrant import names
from gpugrant.api.grant import GpuGrant
from gpugrant.api.objects import ApiObject, Kind
from gpugrant.api.pool import GpuPool
from gpugrant.api.quota import TenantQuota
from gpugrant.api.report import UsageReport

KINDS: Final[tuple[type[ApiObject], ...]] = (GpuPool, TenantQuota, GpuGrant, UsageReport)
HEADER: Final = "# Generated from the models in operator/gpugrant/api by `make crds`. Do not edit.\n"
_DEFAULT_FOLDER: Final = Path(__file__).parents[3] / "crds"
# Keys of JSON schema that mean nothing, or are refused, in a structural schema.
_DROPPED: Final = frozenset({"title", "additionalProperties", "$defs", "const", "propertyNames"})
Schema = dict[str, Any]


def render() -> dict[str, str]:
    """Return the text of each CRD by file name."""
    return {f"{model.about.plural}.yaml": _as_yaml(crd(model)) for model in KINDS}


def crd(model: type[ApiObject]) -> Schema:
    """Return a kind's CustomResourceDefinition."""
    about = model.about
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{about.plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced" if about.namespaced else "Cluster",
            "names": _crd_names(about),
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(about),
                    "schema": {"openAPIV3Schema": openapi(model)},
                }
            ],
        },
    }


def openapi(model: type[ApiObject]) -> Schema:
    """Return a kind's structural schema."""
    whole = model.model_json_schema(by_alias=True, mode="validation")
    whole["properties"].pop("metadata")
    made = _structural(whole, whole["$defs"])
    properties = made["properties"]
    # The API server owns these three and refuses a schema that says more of them.
    owned = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    made["properties"] = owned | {
        "spec": properties["spec"],
        # A default in status would come back after every write and look like a change to whoever wrote.
        "status": _without_defaults(properties["status"]),
    }
    made["required"] = [name for name in made["required"] if name not in ("apiVersion", "kind", "metadata")]
    if not made["required"]:
        del made["required"]
    return made


def _structural(node: Schema, definitions: Schema) -> Schema:
    """Return a schema node without references, nulls and what the API server has no word for."""
    node = _without_indirection(node, definitions)
    made = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in node:
        made["enum"] = [node["const"]]
    if made.get("default") is None or made["default"] == []:
        made.pop("default", None)
    if made.get("type") == "array":
        made["items"] = _structural(made["items"], definitions)
    if "properties" in made:
        made["properties"] = {
            name: _structural(inner, definitions) for name, inner in made["properties"].items()
        }
    elif made.get("type") == "object":
        # pydantic does not know that a length of ours is a map's.
        made["minProperties"], made["maxProperties"] = made.pop("minLength"), made.pop("maxLength")
        made["additionalProperties"] = _structural(node["additionalProperties"], definitions)
    return made


def _without_defaults(node: Schema) -> Schema:
    made = {key: value for key, value in node.items() if key != "default"}
    if "items" in made:
        made["items"] = _without_defaults(made["items"])
    if "properties" in made:
        made["properties"] = {name: _without_defaults(inner) for name, inner in made["properties"].items()}
    return made


def _without_indirection(node: Schema, definitions: Schema) -> Schema:
    """Follow a reference and take the one branch that is not null; what stands beside it wins."""
    branches = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
    if "$ref" in node:
        inner = definitions[node["$ref"].rsplit("/", 1)[-1]]
        beside = {key: value for key, value in node.items() if key != "$ref"}
    elif len(branches) == 1 and len(node["anyOf"]) == 2:
        inner = branches[0]
        beside = {key: value for key, value in node.items() if key != "anyOf"}
    else:
        return node
    return _without_indirection({**inner, **beside}, definitions)


def _crd_names(about: Kind) -> Schema:
    return {
        "kind": about.kind,
        "listKind": f"{about.kind}List",
        "plural": about.plural,
        "singular": about.kind.lower(),
        "shortNames": [about.short_name],
        "categories": ["gpu"],
    }


def _columns(about: Kind) -> list[Schema]:
    columns = [
        {"name": column.name, "type": column.type, "jsonPath": column.path}
        | ({"priority": column.priority} if column.priority else {})
        for column in about.columns
    ]
    return [
        *columns,
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "priority": 1},
    ]


class _Dumper(yaml.SafeDumper):
    """YAML without anchors, which reviewers and some tools trip over."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the base class's signature)
        """Write equal parts out each time."""
        return True


def _as_yaml(document: Schema) -> str:
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def main(arguments: Iterable[str] | None = None) -> int:
    """Write the CRDs, or tell which files differ from the models."""
    parser = argparse.ArgumentParser(prog="python -m gpugrant.api.crd", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true", help="write the files")
    mode.add_argument("--check", action="store_true", help="fail where a file differs from the models")
    parser.add_argument("--folder", type=Path, default=_DEFAULT_FOLDER)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if chosen.write:
        chosen.folder.mkdir(exist_ok=True)
        for name, text in render().items():
            (chosen.folder / name).write_text(text, encoding="utf-8")
        return 0
    stale = [name for name, text in render().items() if not _holds(chosen.folder / name, text)]
    for name in stale:
        print(f"{chosen.folder / name} differs from the models: run `make crds`", file=sys.stderr)
    return 1 if stale else 0


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
