"""The models are values: frozen, hashable, the same in Python's words and on the wire."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from gpugrant.api import crd
from gpugrant.api.frozenmap import FrozenMap
from gpugrant.api.grant import Award, GpuGrantSpec, Term
from gpugrant.api.pool import Delivery, GpuPool, GpuPoolSpec, NodeSelector, PublicShare
from gpugrant.api.problems import describe
from gpugrant.api.quota import Limit, TenantQuotaSpec
from gpugrant.config import load_settings

EXAMPLES = Path(__file__).parents[3] / "examples"
MODELS = {model.about.kind: model for model in crd.KINDS}
TERM = Term(start="2026-11-01", end="2027-05-01")
SPECS = (
    GpuPoolSpec(
        provider="kakao",
        gpu_type="NVIDIA-B200",
        node_selector=NodeSelector(match_labels=FrozenMap({"rack": "7"})),
        public_share=PublicShare(gpus=8, fabrics=("f1",)),
        delivery=(Delivery(gpus=8, due="2026-11-01"),),
    ),
    TenantQuotaSpec(affiliated_providers=("skt",), limits=(Limit(gpu_type="NVIDIA-B200", gpus=8),)),
    GpuGrantSpec(gpu_type="NVIDIA-B200", gpus=8, term=TERM, award=Award(id="P25-1", decided_on="2026-03-03")),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_spec_comes_back_from_the_wire_equal_and_with_the_same_hash(spec: GpuPoolSpec) -> None:
    again = type(spec).model_validate(spec.to_wire())
    assert (again, hash(again)) == (spec, hash(spec))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_spec_cannot_be_changed(spec: GpuPoolSpec) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec.gpu_type = "NVIDIA-H200"


def test_node_selector_reads_as_a_mapping() -> None:
    spec = SPECS[0]
    assert isinstance(spec, GpuPoolSpec)
    assert spec.node_selector is not None
    assert dict(spec.node_selector.match_labels) == {"rack": "7"}


def test_field_written_in_snake_case_on_the_wire_is_unknown() -> None:
    manifest = {"provider": "nhn-cloud", "gpuType": "NVIDIA-B200", "fabric_label": "rack"}
    with pytest.raises(ValidationError) as caught:
        GpuPoolSpec.from_wire(manifest)
    assert describe(caught.value, GpuPoolSpec) == ('unknown field "fabric_label"; did you mean fabricLabel?',)


def test_unknown_field_is_told_with_the_one_that_was_meant() -> None:
    manifest = {
        "apiVersion": "gpugrant.io/v1alpha1",
        "kind": "GpuPool",
        "metadata": {"name": "kakao-b200"},
        "spec": {"provider": "kakao", "gpuType": "B200", "publicShare": {"gpus": 8, "fabric": ["f1"]}},
    }
    with pytest.raises(ValidationError) as caught:
        GpuPool.from_wire(manifest)
    assert describe(caught.value, GpuPool) == (
        'unknown field "spec.publicShare.fabric"; did you mean fabrics?',
    )


def test_several_problems_are_all_told() -> None:
    with pytest.raises(ValidationError) as caught:
        GpuGrantSpec.model_validate({"gpus": 0, "term": {"start": "2026-11-01", "end": "2026-10-01"}})
    assert describe(caught.value) == (
        "gpuType: Required value",
        "gpus: Input should be greater than or equal to 1 (given: 0)",
        "term: end must be after start (2026-10-01 is not after 2026-11-01)",
    )


def test_bad_value_of_any_length_makes_a_short_message() -> None:
    with pytest.raises(ValidationError) as caught:
        GpuPoolSpec.model_validate({"provider": "x" * 100_000, "gpuType": "NVIDIA-B200"})
    assert len(describe(caught.value)[0]) < 200


@pytest.mark.parametrize("name", ["pools.yaml", "tenants.yaml", "grants.yaml"])
def test_examples_are_valid_as_they_stand(name: str) -> None:
    documents = list(yaml.safe_load_all((EXAMPLES / name).read_text()))
    ours = [document for document in documents if document["kind"] in MODELS]
    assert ours
    for document in ours:
        MODELS[document["kind"]].from_wire(document)


def test_example_settings_are_valid_as_they_stand() -> None:
    settings = load_settings((EXAMPLES / "settings.yaml").read_text())
    assert set(settings.programmes) == {"purchase-2025", "lease-2025"}
    assert settings.programmes["purchase-2025"].caps == {"NVIDIA-H200": 256, "NVIDIA-B200": 128}
    assert settings.programmes["lease-2025"].zone.key == "Asia/Seoul"
