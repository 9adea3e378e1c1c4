"""The operator adds resource names and exempt namespaces to the policies, as itself, through the real API."""

from collections.abc import Iterable, Iterator

import pytest

from gpugrant import names
from gpugrant.act.policies import patch_for

from .api import JSON_PATCH, OPERATOR, Answer, Api, eventually
from .attempts import OWN, PLAIN, TEAM, counted
from .install import apply_all, of_policy, path_of, wait_until_policies_act
from .pods import a_pod, container, gates_of, gpu_container, labels_of, tolerating

ATOM = "rebellions.ai/ATOM"
EXEMPT = ["kube-system", "gpu-operator", names.SYSTEM_NAMESPACE]
POD_POLICIES = (
    names.POLICY_GUARD,
    names.POLICY_TENANT_PODS,
    names.POLICY_GATE,
    names.POLICY_FENCE,
    names.POLICY_EXEMPT,
)


def set_lists(api: Api, *, resources: Iterable[str], exempt: Iterable[str]) -> None:
    """Patch every policy as the operator does."""
    resources, exempt = list(resources), list(exempt)
    for name in POD_POLICIES:
        path = path_of(of_policy(name)[0])
        operator = api.as_user(OPERATOR)
        patch = patch_for(operator.get(path), resources=resources, exempt=exempt)
        # Type checking writes the policy's status when it likes; the operator too looks and patches anew then.
        while patch and operator.send("PATCH", path, patch, JSON_PATCH).code == 422:
            patch = patch_for(operator.get(path), resources=resources, exempt=exempt)


@pytest.fixture
def shipped_lists(api: Api) -> Iterator[None]:
    yield
    set_lists(api, resources=[names.DEFAULT_RESOURCE], exempt=EXEMPT)
    # The policies' own fields, not only the lists, are as shipped afterwards.
    apply_all(api, [of_policy(name)[0] for name in POD_POLICIES])
    wait_until_policies_act(api)


def create(api: Api, where: str, resource: str = ATOM) -> Answer:
    return api.create_pod(a_pod(gpu_container(2, resource)), where, dry_run=True)


def test_an_npu_is_no_gpu_until_its_pool_is_there(api: Api, shipped_lists: None) -> None:
    before = create(api, TEAM)
    assert before.accepted
    assert not gates_of(before.body)
    set_lists(api, resources=[names.DEFAULT_RESOURCE, ATOM], exempt=EXEMPT)
    eventually(lambda: (seen := create(api, TEAM)).accepted and gates_of(seen.body), "NPU pods are gated")
    eventually(lambda: names.POLICY_GUARD in create(api, PLAIN).message, "NPU pods of nobody are refused")

    def fenced() -> bool:
        answer = create(api, OWN)
        # The policies take the list up one by one; the guard may refuse before the fence acts.
        if not answer.accepted:
            return False
        keys = [t["key"] for t in answer.body["spec"].get("tolerations", [])]
        return (
            answer.body["spec"].get("nodeSelector") == {names.OWN_USE_LABEL: "kakao"}
            and keys.count(ATOM) == 1
        )

    eventually(fenced, "a provider's NPU pods are fenced")

    def guarded() -> bool:
        tolerant = a_pod(container(), tolerations=tolerating(key=ATOM, operator="Exists"))
        return names.POLICY_TENANT_PODS in api.create_pod(tolerant, TEAM, dry_run=True).message

    eventually(guarded, "the NPU servers' taint may not be tolerated")
    still = create(api, TEAM, names.DEFAULT_RESOURCE)
    assert gates_of(still.body) == [names.GATE]


def test_a_namespace_becomes_exempt_and_is_counted_only(api: Api, shipped_lists: None) -> None:
    assert names.POLICY_GUARD in create(api, PLAIN, names.DEFAULT_RESOURCE).message
    set_lists(api, resources=[names.DEFAULT_RESOURCE], exempt=[*EXEMPT, PLAIN, TEAM])

    def exempt() -> bool:
        answers = [create(api, where, names.DEFAULT_RESOURCE) for where in (PLAIN, TEAM)]
        labelled = all(names.GPU_LABEL in labels_of(a.body) for a in answers if a.accepted)
        return all(a.accepted and not gates_of(a.body) for a in answers) and labelled

    eventually(exempt, "both namespaces are exempt")
    for where in (PLAIN, TEAM):
        pod = create(api, where, names.DEFAULT_RESOURCE).body
        counted(pod, pod)


def test_a_policy_that_somebody_else_edited_meanwhile_is_not_overwritten(
    api: Api, shipped_lists: None
) -> None:
    path = path_of(of_policy(names.POLICY_GATE)[0])
    operator = api.as_user(OPERATOR)
    stale = operator.get(path)
    set_lists(api, resources=[names.DEFAULT_RESOURCE, ATOM], exempt=EXEMPT)
    patch = patch_for(stale, resources=[names.DEFAULT_RESOURCE, "a.b/c"], exempt=EXEMPT)
    assert operator.send("PATCH", path, patch, JSON_PATCH).code == 422
