"""The lists inside the shipped policies can be read and rewritten, and nothing else of them changes."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpugrant import names
from gpugrant.act.policies import JsonPatch, PolicyIsForeign, exempt_of, patch_for, resources_of

MANIFESTS = Path(__file__).parents[3] / "charts" / "gpugrant" / "manifests"
SHIPPED_EXEMPT = {"kube-system", "gpu-operator", names.SYSTEM_NAMESPACE}
POD_POLICIES = (
    names.POLICY_GUARD,
    names.POLICY_TENANT_PODS,
    names.POLICY_GATE,
    names.POLICY_FENCE,
    names.POLICY_EXEMPT,
)


def shipped_policies() -> Iterator[dict[str, Any]]:
    for path in sorted(MANIFESTS.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"].endswith("AdmissionPolicy"):
                document["metadata"]["resourceVersion"] = "7"
                yield document


def policy_named(name: str) -> dict[str, Any]:
    return next(policy for policy in shipped_policies() if policy["metadata"]["name"] == name)


def applied(policy: dict[str, Any], patch: JsonPatch) -> dict[str, Any]:
    """Apply test and replace operations as an API server would, which then counts up the version."""
    result = copy.deepcopy(policy)
    for operation in patch:
        *way, last = operation["path"].strip("/").split("/")
        target: Any = result
        for step in way:
            target = target[int(step)] if isinstance(target, list) else target[step]
        if operation["op"] == "test":
            assert target[last] == operation["value"]
        else:
            target[last] = operation["value"]
    result["metadata"]["resourceVersion"] += "1"
    return result


@pytest.mark.parametrize("name", POD_POLICIES)
def test_shipped_policy_knows_the_default_resource_and_the_default_exempt_namespaces(name: str) -> None:
    policy = policy_named(name)
    assert resources_of(policy) == {names.DEFAULT_RESOURCE}
    assert exempt_of(policy) == SHIPPED_EXEMPT


@pytest.mark.parametrize("name", POD_POLICIES)
def test_nothing_is_patched_when_the_lists_are_right(name: str) -> None:
    policy = policy_named(name)
    assert patch_for(policy, resources=[names.DEFAULT_RESOURCE], exempt=sorted(SHIPPED_EXEMPT)) is None


@pytest.mark.parametrize("name", POD_POLICIES)
def test_a_patched_policy_has_the_wanted_lists_and_is_then_left_alone(name: str) -> None:
    resources, exempt = ["rebellions.ai/ATOM", "nvidia.com/gpu"], ["kube-system"]
    policy = policy_named(name)
    patch = patch_for(policy, resources=resources, exempt=exempt)
    assert patch is not None
    after = applied(policy, patch)
    assert resources_of(after) == set(resources)
    assert exempt_of(after) == set(exempt)
    assert patch_for(after, resources=resources, exempt=exempt) is None


@pytest.mark.parametrize("name", POD_POLICIES)
def test_patching_there_and_back_gives_the_same_lists_and_nothing_else_changes(name: str) -> None:
    policy = policy_named(name)
    there = patch_for(policy, resources=["a.b/c"], exempt=[])
    assert there is not None
    away = applied(policy, there)
    assert exempt_of(away) == set()
    back = patch_for(away, resources=[names.DEFAULT_RESOURCE], exempt=SHIPPED_EXEMPT)
    assert back is not None
    home = applied(away, back)
    home_spec, policy_spec = home["spec"], policy["spec"]
    assert home_spec.keys() == policy_spec.keys()
    assert home_spec.get("validations") == policy_spec.get("validations")
    assert home_spec.get("mutations") == policy_spec.get("mutations")
    assert resources_of(home) == resources_of(policy)
    assert exempt_of(home) == exempt_of(policy)


def test_only_the_list_that_differs_is_in_the_patch() -> None:
    patch = patch_for(
        policy_named(names.POLICY_GATE), resources=["nvidia.com/gpu", "a.b/c"], exempt=SHIPPED_EXEMPT
    )
    assert patch is not None
    assert [operation["op"] for operation in patch] == ["test", "replace"]
    assert "['a.b/c', 'nvidia.com/gpu']" in patch[1]["value"]
    assert ".orValue([])" in patch[1]["value"]


def test_every_policy_asks_for_gpus_in_the_same_words() -> None:
    """The five copies of the expression (CEL has no functions) must not drift apart."""
    expressions = set()
    for name in POD_POLICIES:
        spec = policy_named(name)["spec"]
        entries = spec["matchConditions"] + spec.get("variables", [])
        [expression] = [e["expression"] for e in entries if e["name"] in ("asks-for-gpus", "asksForGpus")]
        expressions.add(expression.replace("variables.resources", "['nvidia.com/gpu']"))
    assert len(expressions) == 1


@pytest.mark.parametrize(
    ("resources", "exempt"),
    [
        pytest.param([], ["kube-system"], id="no resource at all would open the gate"),
        pytest.param(["a.b/c'] || true || ['"], [], id="a resource name that closes the CEL string"),
        pytest.param(["gpu"], [], id="a resource name without a domain"),
        pytest.param(["deviceclass.resource.kubernetes.io/gpu"], [], id="a device class"),
        pytest.param(["nvidia.com/gpu"], ["x'] || true || ['"], id="a namespace that closes the CEL string"),
        pytest.param(["nvidia.com/gpu"], ["Kube-System"], id="a namespace in capitals"),
        pytest.param(["nvidia.com/gpu"], [""], id="a namespace without a name"),
    ],
)
def test_names_that_are_none_are_refused(resources: list[str], exempt: list[str]) -> None:
    with pytest.raises(ValueError):
        patch_for(policy_named(names.POLICY_GATE), resources=resources, exempt=exempt)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="an empty policy"),
        pytest.param({"variables": [{"name": "resources", "expression": "[]"}] * 2}, id="the list twice"),
        pytest.param(
            {"variables": [{"name": "resources", "expression": "params.names"}]}, id="no literal list"
        ),
    ],
)
def test_a_policy_of_other_make_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(PolicyIsForeign):
        resources_of({"metadata": {"name": "foreign"}, "spec": spec})
