"""What still holds while one policy is away, and that every order of coming and going is closed.

A policy takes about 0.2 s to come and go, so each test awaits it by what it does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gpugrant import names

from .api import Api, Json, eventually, pod_path
from .attempts import LAX, OWN, PLAIN, TEAM
from .install import apply_all, delete, of_policy, wait_until_policies_act, wait_until_policy_is_gone
from .pods import a_gpu_pod, a_pod, gates_of, labels_of

GPU_POD_THAT_NAMES_ITS_NODE = a_gpu_pod(nodeName="gpu-0")
OWN_LIMITS = "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"


@contextmanager
def without(api: Api, *policies: str) -> Iterator[None]:
    """Take policies away, and put them back in install order."""
    taken = [document for name in policies for document in of_policy(name)]
    for document in reversed(taken):
        delete(api, document)
    try:
        for name in policies:
            wait_until_policy_is_gone(api, name)
        yield
    finally:
        apply_all(api, taken)
        wait_until_policies_act(api)


def refusal(api: Api, pod: Json, where: str) -> str:
    answer = api.create_pod(pod, where, dry_run=True)
    assert not answer.accepted, "accepted, but should have been refused"
    return answer.message


def accepted(api: Api, pod: Json, where: str) -> Json:
    answer = api.create_pod(pod, where, dry_run=True)
    assert answer.accepted, answer.message
    return answer.body


def test_without_the_gate_tenants_gpu_pods_are_refused_not_let_in(api: Api) -> None:
    with without(api, names.POLICY_GATE):
        message = refusal(api, a_gpu_pod(), TEAM)
        assert names.POLICY_GUARD in message
        assert "needs the gate gpugrant.io/admission" in message
        accepted(api, a_pod(), TEAM)
        accepted(api, a_gpu_pod(), OWN)


def test_without_the_gate_a_pod_that_gates_itself_waits_as_any_other(api: Api) -> None:
    with without(api, names.POLICY_GATE):
        pod = accepted(api, a_gpu_pod(schedulingGates=[{"name": names.GATE}]), TEAM)
        assert gates_of(pod) == [names.GATE]


def test_without_the_fence_a_providers_gpu_pods_are_refused_not_let_in(api: Api) -> None:
    with without(api, names.POLICY_FENCE):
        message = refusal(api, a_gpu_pod(), OWN)
        assert names.POLICY_GUARD in message
        assert "needs gpugrant.io/own-use: kakao" in message
        other = a_gpu_pod(nodeSelector={names.OWN_USE_LABEL: "naver-cloud"})
        assert "needs gpugrant.io/own-use: kakao" in refusal(api, other, OWN)
        accepted(api, a_gpu_pod(nodeSelector={names.OWN_USE_LABEL: "kakao"}), OWN)


def test_without_the_guard_new_pods_are_still_gated_and_fenced(api: Api) -> None:
    with without(api, names.POLICY_GUARD):
        assert names.GATE in gates_of(accepted(api, a_gpu_pod(), TEAM))
        assert accepted(api, a_gpu_pod(), OWN)["spec"]["nodeSelector"][names.OWN_USE_LABEL] == "kakao"
        assert OWN_LIMITS in refusal(api, GPU_POD_THAT_NAMES_ITS_NODE, TEAM)
        assert names.POLICY_TENANT_PODS in refusal(api, a_gpu_pod(labels={names.SHARE_LABEL: "x"}), TEAM)


def test_without_tenant_pods_the_gate_and_the_guard_still_hold_gpu_pods(api: Api) -> None:
    with without(api, names.POLICY_TENANT_PODS):
        assert names.GATE in gates_of(accepted(api, a_gpu_pod(), TEAM))
        assert OWN_LIMITS in refusal(api, GPU_POD_THAT_NAMES_ITS_NODE, TEAM)
        assert names.GATE in gates_of(accepted(api, a_gpu_pod(), LAX))
        assert names.POLICY_GUARD in refusal(api, a_gpu_pod(), PLAIN)


def test_without_the_exempt_policy_system_pods_are_neither_labelled_nor_disturbed(api: Api) -> None:
    with without(api, names.POLICY_EXEMPT):
        pod = accepted(api, a_gpu_pod(), "kube-system")
        assert names.GPU_LABEL not in labels_of(pod)
        assert not gates_of(pod)


def test_without_both_mutating_policies_nothing_with_gpus_gets_in(api: Api) -> None:
    with without(api, names.POLICY_GATE, names.POLICY_FENCE):
        for where in (TEAM, LAX, OWN, PLAIN):
            refusal(api, a_gpu_pod(), where)


@pytest.mark.parametrize("away", [names.POLICY_GATE, names.POLICY_TENANT_PODS, names.POLICY_FENCE])
def test_a_waiting_pod_keeps_its_gate_while_a_policy_is_away(api: Api, away: str) -> None:
    waiting = api.must("POST", f"/api/v1/namespaces/{TEAM}/pods", a_gpu_pod())
    with without(api, away):
        answer = api.patch_pod(waiting, {"spec": {"schedulingGates": None}})
        assert names.POLICY_GUARD in answer.message
    api.must("DELETE", pod_path(waiting))


def test_installed_in_order_there_is_no_moment_in_which_a_gpu_pod_gets_in_ungated(api: Api) -> None:
    """Validating policies first: a pod created at any moment is refused or gated."""
    everything = (names.POLICY_GUARD, names.POLICY_TENANT_PODS, names.POLICY_GATE, names.POLICY_FENCE)
    with without(api, *everything):
        assert not gates_of(accepted(api, a_gpu_pod(), TEAM)), "nothing is installed, so nothing gates"
        apply_all(api, of_policy(names.POLICY_GUARD))
        # The guard takes a moment to act; an install waits for it as this does.
        eventually(lambda: _watch(api, 1) == ["refused"], "the guard acts alone")
        seen: list[str] = []
        for name in everything[1:]:
            apply_all(api, of_policy(name))
            seen += _watch(api, 30)
        wait_until_policies_act(api)
        seen += _watch(api, 30)
    assert seen[-1] == "gated"
    assert _ungated(seen) == 0


def test_removed_in_the_opposite_order_there_is_no_such_moment_until_the_guard_goes(api: Api) -> None:
    order = (names.POLICY_GUARD, names.POLICY_TENANT_PODS, names.POLICY_GATE, names.POLICY_FENCE)
    seen = []
    with without(api):
        for name in reversed(order[1:]):
            for document in reversed(of_policy(name)):
                delete(api, document)
            seen += _watch(api, 30)
            wait_until_policy_is_gone(api, name)
        seen += _watch(api, 10)
        apply_all(api, [document for name in order for document in of_policy(name)])
        seen += _watch(api, 30)
    assert "gated" in seen
    assert "refused" in seen
    assert _ungated(seen) == 0


def _watch(api: Api, times: int) -> list[str]:
    """Try to create GPU pods and say how each ended."""
    ends = []
    for _ in range(times):
        answer = api.create_pod(a_gpu_pod(), TEAM, dry_run=True)
        if not answer.accepted:
            ends.append("refused")
        else:
            ends.append("gated" if names.GATE in gates_of(answer.body) else "ungated")
    return ends


def _ungated(ends: list[str]) -> int:
    return ends.count("ungated")
