"""The models and a real API server give the same verdict on the same object, and both name field and rule."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from devcluster.controlplane import ControlPlane
from gpugrant.api import crd
from gpugrant.api.grant import GpuGrant
from gpugrant.api.objects import ApiObject
from gpugrant.api.problems import describe
from gpugrant.api.schema import refused_changes
from gpugrant.names import API_VERSION, GROUP, VERSION

from .api import APPLY, Answer, Api, eventually, fresh_name
from .crd_cases import CASES, CHANGES, Case, Change, Json, changed, good

MODELS: dict[str, type[ApiObject]] = {model.about.kind: model for model in crd.KINDS}
STRICT = "?fieldValidation=Strict"
DRY = f"{STRICT}&dryRun=All"
ALLOCATION = {"pool": "nhn-b200", "fabric": "f1", "servers": ["nhn-0001"], "gpus": 8}


@pytest.fixture(scope="module")
def api_with_crds(control_plane: ControlPlane) -> Iterator[Api]:
    """Install the CRDs as they come out of the models, and wait until the API server serves them."""
    api = Api.from_kubeconfig(control_plane.kubeconfig)
    for model in crd.KINDS:
        document = crd.crd(model)
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{document['metadata']['name']}"
        api.must("PATCH", f"{path}?fieldManager=test&force=true", document, APPLY)
        eventually(
            lambda kind=model.about.kind: _has_reached(api, good(kind)), f"{model.about.kind} is served"
        )
    yield api
    api.client.close()


def _has_reached(api: Api, manifest: Json) -> bool:
    """Tell whether the API server already judges by the CRD just written: its own good object passes."""
    return api.send("POST", collection(manifest["kind"]) + DRY, manifest).accepted


def collection(kind: str) -> str:
    """Return the path that objects of a kind are posted to."""
    about = MODELS[kind].about
    return f"/apis/{GROUP}/{VERSION}/{'namespaces/default/' if about.namespaced else ''}{about.plural}"


def verdict_of_model(manifest: Json) -> tuple[bool, str]:
    """Return whether pydantic takes the object, and what it says."""
    model = MODELS[manifest["kind"]]
    try:
        model.from_wire(manifest)
    except ValidationError as error:
        return False, "; ".join(describe(error, model))
    return True, ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.id}")
def test_model_says_so(case: Case) -> None:
    accepted, message = verdict_of_model(case.manifest)
    assert accepted == case.accepted, message
    assert_names_field_and_rule(message, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.id}")
def test_api_server_says_so(api_with_crds: Api, case: Case) -> None:
    answer = api_with_crds.send("POST", collection(case.kind) + DRY, case.manifest)
    assert answer.accepted == case.accepted, answer.message
    if not case.accepted:
        assert answer.code in (400, 422), answer.message
        assert_names_field_and_rule(answer.message, case)


def test_table_is_long_enough_and_every_line_is_another() -> None:
    assert len(CASES) >= 60
    assert len({case.id for case in CASES}) == len(CASES)
    for one, other in itertools.combinations(CASES, 2):
        assert one.manifest != other.manifest, (one.id, other.id)


def assert_names_field_and_rule(message: str, case: Case | Change) -> None:
    assert case.field in message
    for words in case.words:
        assert words in message


# -- updates -------------------------------------------------------------------------------------------


@pytest.fixture
def granted(api_with_crds: Api, request: pytest.FixtureRequest) -> Iterator[Json]:
    """Return a grant as the API server keeps it, allocated where the case says so."""
    case: Change = request.getfixturevalue("case")
    manifest = changed(good("GpuGrant"), {"metadata.name": fresh_name("crd-grant"), **dict(case.before)})
    kept = api_with_crds.must("POST", collection("GpuGrant") + STRICT, manifest)
    path = f"{collection('GpuGrant')}/{manifest['metadata']['name']}"
    if case.allocated:
        kept = api_with_crds.must(
            "PUT", f"{path}/status{STRICT}", kept | {"status": {"allocation": ALLOCATION}}
        )
    yield kept
    api_with_crds.must("DELETE", path)


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.id)
def test_update_of_a_grant_gets_the_same_verdict_from_both(
    api_with_crds: Api, granted: Json, case: Change
) -> None:
    wanted = changed(granted, dict(case.changes))
    answer = api_with_crds.send("PUT", f"{collection('GpuGrant')}/{granted['metadata']['name']}{DRY}", wanted)
    accepted, message = verdict_of_model(wanted)
    if accepted:
        refusals = refused_changes(GpuGrant.from_wire(granted), GpuGrant.from_wire(wanted))
        accepted, message = not refusals, "; ".join(refusals)
    assert answer.accepted == case.accepted, answer.message
    assert accepted == case.accepted, message
    if not case.accepted:
        assert_names_field_and_rule(answer.message, case)
        assert_names_field_and_rule(message, case)


# -- what only the API server does ---------------------------------------------------------------------


@pytest.fixture
def grant(api_with_crds: Api) -> Iterator[Json]:
    """Return a good grant that the API server keeps."""
    manifest = changed(good("GpuGrant"), {"metadata.name": fresh_name("crd-grant")})
    yield api_with_crds.must("POST", collection("GpuGrant") + STRICT, manifest)
    api_with_crds.must("DELETE", f"{collection('GpuGrant')}/{manifest['metadata']['name']}")


def put_status(api: Api, grant: Json, status: Any) -> Answer:
    path = f"{collection('GpuGrant')}/{grant['metadata']['name']}/status{STRICT}"
    return api.send("PUT", path, grant | {"status": status})


def test_unknown_field_is_dropped_with_a_warning_where_a_client_does_not_ask_for_strictness(
    api_with_crds: Api,
) -> None:
    manifest = changed(good("GpuGrant"), {"spec.tenant": "hangang"})
    answer = api_with_crds.client.post(collection("GpuGrant") + "?dryRun=All", json=manifest)
    assert answer.status_code == 201
    assert 'unknown field \\"spec.tenant\\"' in answer.headers["warning"]
    assert "tenant" not in answer.json()["spec"]


def test_key_given_twice_is_refused(api_with_crds: Api) -> None:
    text = (
        f'{{"apiVersion": "{API_VERSION}", "kind": "GpuGrant", "metadata": {{"name": "twice"}}, "spec": {{'
        '"gpuType": "NVIDIA-B200", "gpus": 8, "gpus": 16, '
        '"term": {"start": "2026-11-01", "end": "2027-05-01"}}}'
    )
    answer = api_with_crds.client.post(
        collection("GpuGrant") + DRY, content=text, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert 'duplicate field "spec.gpus"' in answer.json()["message"]


def test_status_at_creation_is_ignored(api_with_crds: Api) -> None:
    manifest = good("GpuGrant") | {"status": {"allocation": ALLOCATION}}
    assert "status" not in api_with_crds.must("POST", collection("GpuGrant") + DRY, manifest)


def test_spec_sent_to_the_status_subresource_is_ignored(api_with_crds: Api, grant: Json) -> None:
    answer = put_status(api_with_crds, changed(grant, {"spec.gpus": 8}), {"positionInLine": 3})
    assert answer.accepted, answer.message
    assert (answer.body["spec"]["gpus"], answer.body["status"]) == (128, {"positionInLine": 3})


def test_whole_status_is_kept_as_it_was_written(api_with_crds: Api, grant: Json) -> None:
    status = {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Active",
                "message": "",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-11-01T00:00:00Z",
            }
        ],
        "allocation": ALLOCATION,
        "usage": {"held": 8, "reserved": 0, "waiting": 0, "gpuSeconds": 2**53, "gpuSecondsLeft": 0},
        "summary": {"why": "", "leftHours": "436118", "lastDay": "2027-04-30", "next": ""},
    }
    answer = put_status(api_with_crds, grant, status)
    assert answer.accepted, answer.message
    assert answer.body["status"] == status
    assert GpuGrant.from_wire(answer.body).status is not None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param(
            {"phase": "Active"}, 'unknown field "status.phase"', id="a field that status does not have"
        ),
        pytest.param(
            {"allocation": {"gpus": 8}}, "status.allocation.pool: Required", id="an allocation of no pool"
        ),
        pytest.param({"usage": {"held": -1}}, "status.usage.held", id="fewer GPUs held than none"),
        pytest.param(
            {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "Yes",
                        "reason": "A",
                        "lastTransitionTime": "2026-11-01T00:00:00Z",
                    }
                ]
            },
            "status.conditions[0].status",
            id="a condition that is neither true nor false",
        ),
        pytest.param(
            {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "reason": "A",
                        "lastTransitionTime": "2026-11-01T00:00:00Z",
                    }
                ]
                * 2
            },
            "status.conditions[1]: Duplicate value",
            id="one condition twice",
        ),
    ],
)
def test_bad_status_is_refused(api_with_crds: Api, grant: Json, status: Json, words: str) -> None:
    answer = put_status(api_with_crds, grant, status)
    assert answer.code in (400, 422)
    assert words in answer.message
    accepted, message = verdict_of_model(grant | {"status": status})
    assert not accepted
    assert words.partition(":")[0] in message


def test_grant_that_lost_its_allocation_may_change_its_gpu_type(api_with_crds: Api, grant: Json) -> None:
    path = f"{collection('GpuGrant')}/{grant['metadata']['name']}"
    kept = put_status(api_with_crds, grant, {"allocation": ALLOCATION}).body
    other = changed(kept, {"spec.gpuType": "NVIDIA-H200"})
    assert not api_with_crds.send("PUT", path + DRY, other).accepted
    freed = put_status(api_with_crds, kept, {}).body
    other = changed(freed, {"spec.gpuType": "NVIDIA-H200"})
    assert api_with_crds.send("PUT", path + DRY, other).accepted


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.accepted], ids=lambda case: f"{case.kind}: {case.id}"
)
def test_both_fill_in_the_same_defaults(api_with_crds: Api, case: Case) -> None:
    kept = api_with_crds.must("POST", collection(case.kind) + DRY, case.manifest)
    model = MODELS[case.kind]
    ours, theirs = (
        model.from_wire(case.manifest).to_wire()["spec"],
        model.from_wire(kept).to_wire()["spec"],
    )
    assert ours == theirs
    assert without_empty_lists(ours) == kept["spec"]


def without_empty_lists(value: Any) -> Any:
    """Return the value as the API server keeps it, which has no default for a list."""
    if isinstance(value, list):
        return [without_empty_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: without_empty_lists(inner) for key, inner in value.items() if inner != []}
    return value


@pytest.mark.parametrize("model", crd.KINDS, ids=lambda model: model.about.kind)
def test_columns_have_their_names_and_the_category_is_gpu(api_with_crds: Api, model: type[ApiObject]) -> None:
    table = api_with_crds.client.get(
        collection(model.about.kind), headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    ).json()
    names = [column["name"] for column in table["columnDefinitions"]]
    assert names == ["Name", *(column.name for column in model.about.columns), "Age"]
    resources = api_with_crds.get(f"/apis/{GROUP}/{VERSION}")["resources"]
    ours = next(resource for resource in resources if resource["name"] == model.about.plural)
    assert (ours["shortNames"], ours["categories"]) == ([model.about.short_name], ["gpu"])
