"""Over a restart of the API server no GPU pod gets in ungated, unfenced or from nobody's namespace."""

import time
from collections.abc import Iterator

import httpx
import pytest

from devcluster.controlplane import ControlPlane
from gpugrant import names

from .api import Api
from .attempts import OWN, PLAIN, TEAM
from .install import wait_until_policies_act
from .pods import a_gpu_pod, gates_of

TRIES = 200
SECONDS = 120.0


@pytest.fixture
def insistent(plane: ControlPlane) -> Iterator[Api]:
    """Return a client that may knock at a closed port as often as it likes.

    From the server's own address, one of many connects gets the server's port as its own and is connected to
    itself; the server that comes back then finds its address in use.
    """
    api = Api.from_kubeconfig(plane.kubeconfig, local_address="127.0.0.2")
    yield api
    api.client.close()


@pytest.mark.parametrize("kill", [pytest.param(False, id="stopped"), pytest.param(True, id="killed")])
def test_an_api_server_that_comes_back_lets_nothing_in(
    plane: ControlPlane, api: Api, insistent: Api, kill: bool
) -> None:
    wait_until_policies_act(api)
    plane.stop_component("kube-apiserver", kill=kill)
    plane.start_component("kube-apiserver")
    ends = {"gated": 0, "fenced": 0, "refused": 0, "unreachable": 0}
    deadline = time.monotonic() + SECONDS
    while ends["gated"] < TRIES:
        assert time.monotonic() < deadline, ends
        for where in (TEAM, OWN, PLAIN):
            ends[_attempt(insistent, where)] += 1
    assert ends["fenced"] > 0, ends
    assert ends["refused"] > 0, ends
    plane.wait_until_ready()
    wait_until_policies_act(api)


def _attempt(api: Api, where: str) -> str:
    """Try to get a GPU pod in, from the server's first breath on."""
    try:
        answer = api.create_pod(a_gpu_pod(), where, dry_run=True)
    except httpx.TransportError:
        time.sleep(0.01)  # nothing tells of a port that will listen
        return "unreachable"
    if not answer.accepted:
        return "refused"
    assert where != PLAIN, "a GPU pod of nobody's namespace got in"
    if where == OWN:
        assert answer.body["spec"]["nodeSelector"][names.OWN_USE_LABEL] == "kakao", "unfenced"
        return "fenced"
    assert names.GATE in gates_of(answer.body), "ungated"
    return "gated"
