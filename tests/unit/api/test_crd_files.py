"""The files under crds/ are what the models say, in a form that the API server takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpugrant.api import crd
from gpugrant.api.objects import ApiObject

FOLDER = Path(__file__).parents[3] / "crds"


def test_files_are_what_the_models_say() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.yaml")} == crd.render()


def test_check_names_the_file_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--write", "--folder", str(tmp_path)]) == 0
    assert crd.main(["--check", "--folder", str(tmp_path)]) == 0
    (tmp_path / "gpupools.yaml").write_text("")
    assert crd.main(["--check", "--folder", str(tmp_path)]) == 1
    assert "gpupools.yaml differs from the models" in capsys.readouterr().err


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema node under its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


@pytest.mark.parametrize("model", crd.KINDS, ids=lambda model: model.about.kind)
def test_schema_is_structural(model: type[ApiObject]) -> None:
    for path, node in nodes(crd.openapi(model)):
        assert isinstance(node.get("type"), str), path
        assert not {"$ref", "anyOf", "const", "title", "exclusiveMinimum", "prefixItems"} & node.keys(), path
        if node["type"] == "object" and path != ".metadata":
            assert ("properties" in node) != ("additionalProperties" in node), path


@pytest.mark.parametrize("model", crd.KINDS, ids=lambda model: model.about.kind)
def test_status_has_no_defaults_that_would_look_like_somebody_elses_write(model: type[ApiObject]) -> None:
    for path, node in nodes(crd.openapi(model)):
        assert "default" not in node or not path.startswith(".status"), path


@pytest.mark.parametrize("model", crd.KINDS, ids=lambda model: model.about.kind)
def test_everything_a_person_writes_is_explained(model: type[ApiObject]) -> None:
    for path, node in nodes(crd.openapi(model)):
        if path.startswith(".spec") and not path.endswith("[]"):
            assert node.get("description"), path


@pytest.mark.parametrize("model", crd.KINDS, ids=lambda model: model.about.kind)
def test_every_list_and_string_a_person_writes_has_a_limit(model: type[ApiObject]) -> None:
    for path, node in nodes(crd.openapi(model)):
        if path.startswith(".spec") and node["type"] == "array":
            assert "maxItems" in node, path
        if path.startswith(".spec") and node["type"] == "string":
            assert "maxLength" in node or "enum" in node, path


def test_every_column_points_at_a_field_that_exists() -> None:
    for model in crd.KINDS:
        known = {path for path, _ in nodes(crd.openapi(model))}
        for column in model.about.columns:
            path = column.path.replace('[?(@.type=="Ready")]', "[]")
            assert path in known, (model.about.kind, column.path)


def test_header_says_that_the_files_are_generated() -> None:
    for name, text in crd.render().items():
        assert text.startswith("# Generated from the models"), name
        assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
