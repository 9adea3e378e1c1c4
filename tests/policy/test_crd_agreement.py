"""Whatever is put into an object, the models and a real API server give the same verdict."""

from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpugrant.api import crd

from .api import Api
from .crd_cases import CASES, Json
from .test_crd_table import DRY, api_with_crds, collection, verdict_of_model

__all__ = ["api_with_crds"]  # the fixture is shared

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 8, 8.0, 8.5, 1e300, 10**6, 2**31 - 1, 2**31, 2**63),
    *(
        "",
        "a",
        "A",
        "a-",
        "-a",
        "a.b",
        "a..b",
        "a_b",
        "a b",
        "\n",
        "a\n",
        "\x7f",
        "\x80",
        "\u2028",
        "한",
        "٣",
    ),
    *("x" * 63, "x" * 64, "x" * 253, "x" * 317, "/", "a/", "a/b", "A/b", "a.b/C_d"),
    *("nvidia.com/gpu", "kubernetes.io/x", "notkubernetes.io/x"),
    *("2026-11", "2026-11-01", "2027-01-01", "2024-02-29", "2100-02-29", "２０２６-11-01"),
    *("2026-11-01T00:00:00Z", "2026-11-01t00:00:00z", "2026-11-01T00:00:00+09:00"),
    *("Public", "OwnUse", "Hold", "Drain", "None", "Open", "Granted", "true"),
    *(
        [],
        [None],
        ["a"],
        ["a", "a"],
        ["a", 1],
        [{"gpus": 8, "due": "2026-11-01"}],
        [{"gpuType": "a", "gpus": 1}],
    ),
    *({}, {"a": "b"}, {"gpus": 8}, {"id": "x"}, {"id": "x", "round": None}, {"lend": None}, {"lend": True}),
    *({"matchLabels": {"a/b": ""}}, {"matchLabels": {"A/b": ""}}, {"matchLabels": {"a": None}}),
)
GOOD = tuple(case.manifest for case in CASES if case.accepted)
FIELDS = {
    model.about.kind: tuple(crd.openapi(model)["properties"]["spec"]["properties"]) for model in crd.KINDS
}


@st.composite
def manifests(draw: st.DrawFn) -> Json:
    """Return a good object with one to three values put somewhere into its spec."""
    manifest = deepcopy(draw(st.sampled_from(GOOD)))
    manifest.setdefault("spec", {})
    for _ in range(draw(st.integers(1, 3))):
        place, key = draw(st.sampled_from([(manifest, "spec"), *places(manifest["spec"], manifest["kind"])]))
        place[key] = deepcopy(draw(st.sampled_from(VALUES)))
    return manifest


def places(value: Any, kind: str = "") -> list[tuple[Any, Any]]:
    """Return everywhere in a value that another one can be put; at the top also where there is none yet."""
    keys = [*value] if isinstance(value, dict) else [*range(len(value))] if isinstance(value, list) else []
    found = [(value, key) for key in keys]
    if kind and isinstance(value, dict):
        found += [(value, field) for field in FIELDS[kind] if field not in value]
    for key in keys:
        found += places(value[key])
    return found


@settings(
    max_examples=600,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(manifest=manifests())
def test_both_give_the_same_verdict(api_with_crds: Api, manifest: Json) -> None:
    answer = api_with_crds.send("POST", collection(manifest["kind"]) + DRY, manifest)
    accepted, message = verdict_of_model(manifest)
    assert accepted == answer.accepted, (answer.message, message)
    assert answer.accepted or answer.code in (400, 422), answer.message
