"""One row of the attack table: who tries what on which pod, and how it ends. And the judge of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gpugrant import names

from .api import JSON_PATCH, MERGE, OPERATOR, Answer, Api, Json, User, pod_path, pods
from .pods import gates_of, labels_of

# -- places ----------------------------------------------------------------------------------------
TEAM = "team-a"  # tenant hangang, Pod Security baseline
RIVAL = "team-b"  # another tenant
LAX = "team-lax"  # tenant hangang, without Pod Security
OWN = "kakao-search"  # provider kakao's own
BOTH = "both-labels"  # tenant and provider: tenant wins
PLAIN = "plain"  # nobody's
EXEMPT = "kube-system"
ANY_PLACES = (TEAM, RIVAL, LAX, OWN, BOTH, PLAIN, EXEMPT)

# -- people ----------------------------------------------------------------------------------------
EDITOR = User("tina")  # ClusterRole edit by RoleBinding, in every namespace above but kube-system
ADMIN = User("nadia")  # ClusterRole admin, and every pod subresource there is, bindings included
STRANGER = User.service_account(RIVAL, "robot")  # a service account of another namespace, with edit
IMPOSTOR = User.service_account(names.SYSTEM_NAMESPACE, "default")  # the right namespace, the wrong name
KUBELET = User.kubelet("gpu-0")
PLATFORM: User | None = None  # system:masters


# -- outcomes --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Refused:
    """Refused by a policy (its name) or by core ("core"); the message has this fragment."""

    by: str
    says: str


Harmless = Callable[[Json, Json], None]
"""Takes the pod before the attempt (as asked for) and after it; asserts what makes it harmless."""


@dataclass(frozen=True)
class Attempt:
    """What is tried. `pod` is created by `who`, unless `then` says what is tried on it afterwards."""

    id: str
    pod: Json
    outcome: Refused | Harmless
    who: User | None = EDITOR
    where: str = TEAM
    then: "Change | None" = None
    released: bool = False


@dataclass(frozen=True)
class Change:
    """A request on a pod that exists. The body may be a function of that pod."""

    body: Any
    method: str = "PATCH"
    content_type: str = MERGE
    subresource: str = ""
    path: str = ""
    query: str = ""


def patch(body: Any, content_type: str = MERGE, subresource: str = "") -> Change:
    return Change(body, content_type=content_type, subresource=subresource)


def json_patch(*operations: Json, subresource: str = "") -> Change:
    return Change(list(operations), content_type=JSON_PATCH, subresource=subresource)


def put(edit: Callable[[Json], None], subresource: str = "") -> Change:
    """Replace the pod by itself with an edit."""

    def body(pod: Json) -> Json:
        edit(pod)
        return pod

    return Change(body, method="PUT", content_type="application/json", subresource=subresource)


def post(body: Any, subresource: str) -> Change:
    return Change(body, method="POST", content_type="application/json", subresource=subresource)


def rows(*tables: list[Attempt]) -> list[Any]:
    """Return the tables' attempts as pytest parameters, each under its sentence."""
    return [pytest.param(attempt, id=attempt.id) for table in tables for attempt in table]


# -- the judge -------------------------------------------------------------------------------------
def judge(api: Api, attempt: Attempt) -> None:
    """Make the attempt and assert that it ends as the row says."""
    if attempt.then is None:
        answer = api.as_user(attempt.who).create_pod(attempt.pod, attempt.where)
        _conclude(api, attempt, answer, attempt.pod, answer.body)
        return
    before = api.must("POST", pods(attempt.where), attempt.pod)
    if attempt.released:
        before = api.release(before, {names.GRANT_UID_LABEL: "uid-1"})
    try:
        answer = _send(api.as_user(attempt.who), attempt.then, before)
        after = api.get(pod_path(before))
        if isinstance(attempt.outcome, Refused):
            assert labels_of(after) == labels_of(before), "refused, and yet changed"
            assert gates_of(after) == gates_of(before), "refused, and yet changed"
        _conclude(api, attempt, answer, before, after)
    finally:
        _discard(api, before)


def _send(api: Api, change: Change, pod: Json) -> Answer:
    path = (change.path or pod_path(pod) + change.subresource) + change.query
    if not callable(change.body):
        return api.send(change.method, path, change.body, change.content_type)
    while True:
        answer = api.send(change.method, path, change.body(api.as_user(None).get(pod_path(pod))), change.content_type)
        if "the object has been modified" not in answer.message:  # by an operator at work: read it anew, as one does
            return answer


def _conclude(api: Api, attempt: Attempt, answer: Answer, before: Json, after: Json) -> None:
    if isinstance(attempt.outcome, Refused):
        assert not answer.accepted, "accepted, but should have been refused"
        assert 400 <= answer.code < 500, answer
        _assert_refused_by(attempt.outcome, answer.message)
        return
    assert answer.accepted, f"{answer.code} {answer.message}"
    try:
        attempt.outcome(before, after)
    finally:
        if attempt.then is None:
            _discard(api, after)


def _assert_refused_by(refused: Refused, message: str) -> None:
    if refused.by == "core":
        assert "AdmissionPolicy" not in message, message
    else:
        assert f"'{refused.by}'" in message, message
    assert refused.says in message, message


def _discard(api: Api, pod: Json) -> None:
    path = pod_path(pod)
    if names.FINALIZER in api.get(path)["metadata"].get("finalizers", []):
        api.as_user(OPERATOR).must("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
    api.send("DELETE", path, {"gracePeriodSeconds": 0})


# -- what makes an accepted pod harmless -----------------------------------------------------------
def gated(_: Json, pod: Json) -> None:
    """Wait behind the gate, seen by the operator, until it is released onto a grant's servers."""
    assert names.GATE in gates_of(pod)
    assert gates_of(pod).count(names.GATE) == 1
    assert labels_of(pod)[names.GPU_LABEL] == "true"


def kept_off_gpu_servers(_: Json, pod: Json) -> None:
    """Neither gated nor labelled, and no toleration lets it onto a tainted server."""
    assert names.GATE not in gates_of(pod)
    assert names.GPU_LABEL not in labels_of(pod)
    assert not pod["spec"].get("nodeName")
    for toleration in pod["spec"].get("tolerations", []):
        covers_key = toleration.get("key", "") in ("", names.DEFAULT_RESOURCE)
        assert not (covers_key and toleration.get("effect", "") in ("", names.TAINT_EFFECT))


def fenced(_: Json, pod: Json) -> None:
    """Not gated, bound to the provider's own-use servers, tolerating the taint once."""
    assert names.GATE not in gates_of(pod)
    assert labels_of(pod)[names.GPU_LABEL] == "true"
    assert pod["spec"]["nodeSelector"][names.OWN_USE_LABEL] == "kakao"
    own = [t for t in pod["spec"].get("tolerations", []) if t.get("key") == names.DEFAULT_RESOURCE]
    assert len(own) == 1


def counted(_: Json, pod: Json) -> None:
    """Exempt: labelled, so that the operator sees it; not gated, not fenced."""
    assert labels_of(pod)[names.GPU_LABEL] == "true"
    assert names.GATE not in gates_of(pod)
    assert names.OWN_USE_LABEL not in pod["spec"].get("nodeSelector", {})


def mirrored(_: Json, pod: Json) -> None:
    """The picture of a static pod that its node's owner put there; it has no GPUs."""
    assert pod["spec"]["nodeName"] == KUBELET.name.removeprefix("system:node:")
    assert names.GPU_LABEL not in labels_of(pod)


def bound_to_its_grant(before: Json, pod: Json) -> None:
    """The release's selector stands, so whatever was added can only keep the pod waiting."""
    assert pod["spec"]["nodeSelector"][names.GRANT_UID_LABEL] == "uid-1"
    assert labels_of(pod) == labels_of(before)
    assert pod["metadata"]["finalizers"] == before["metadata"]["finalizers"]


def still_gated(before: Json, pod: Json) -> None:
    """Something harmless changed; the gate and our labels did not."""
    gated(before, pod)
    ours = {key: value for key, value in labels_of(before).items() if key.startswith(names.GROUP)}
    assert ours == {key: value for key, value in labels_of(pod).items() if key.startswith(names.GROUP)}
