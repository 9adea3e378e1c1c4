"""What the kubelet sees of it: registering, lists, allocating, restarts."""

import socket
from pathlib import Path

import grpc
import pytest

from deviceplugin.service import Service
from kubelet_kit.kubelet import FakeKubelet
from kubelet_kit.running import options

FIRST_NUMA, SECOND_NUMA = range(4), range(4, 8)


async def test_it_registers_its_resource_and_lists_eight_healthy_devices_on_two_numa_nodes(kubelet, b200):
    request = kubelet.requests[-1]
    assert (request.version, request.resource_name) == ("v1beta1", "nvidia.com/gpu")
    assert request.options.get_preferred_allocation_available and not request.options.pre_start_required
    devices = kubelet.session.lists[-1]
    assert list(devices.values()) == ["Healthy"] * 8
    assert all(id_.startswith("GPU-") and len(id_) <= 63 for id_ in devices)
    assert list(kubelet.session.numa.values()) == [0] * 4 + [1] * 4


async def test_ids_are_the_same_over_restarts_of_the_plugin_and_others_on_other_nodes(kubelet, tmp_path):
    seen = []
    for node in ("worker-1", "worker-1", "worker-2"):
        service = Service(_options(kubelet, tmp_path, node=node))
        async with service.running():
            await kubelet.wait_for(lambda: any(each.lives and each.lists for each in kubelet.sessions))
            seen.append(list(kubelet.session.lists[-1]))
        await kubelet.wait_for(lambda: not any(each.lives for each in kubelet.sessions))
    assert seen[0] == seen[1]
    assert not set(seen[0]) & set(seen[2])


async def test_its_end_leaves_no_socket(kubelet, tmp_path):
    async with Service(_options(kubelet, tmp_path)).running():
        await kubelet.wait_for(lambda: kubelet.sessions and kubelet.sessions[-1].lists)
        assert len(_sockets(kubelet)) == 1
    assert _sockets(kubelet) == []


async def test_sockets_of_a_killed_run_are_swept_and_those_of_others_are_not(kubelet, tmp_path):
    left, others = kubelet.plugins / "fake-nvidia.com_gpu-0000.sock", kubelet.plugins / "vendor.sock"
    for path in (left, others):
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))
    served = kubelet.plugins / "fake-nvidia.com_gpu-1111.sock"
    with socket.socket(socket.AF_UNIX) as other_run:
        other_run.bind(str(served))
        other_run.listen()
        async with Service(_options(kubelet, tmp_path)).running():
            await kubelet.wait_for(lambda: kubelet.sessions and kubelet.sessions[-1].lists)
            assert not left.exists() and others.exists() and served.exists()


async def test_a_restarted_kubelet_is_registered_with_anew_on_a_fresh_socket(kubelet, b200):
    endpoints = {kubelet.session.endpoint}
    for _ in range(3):
        await kubelet.restart()
        await kubelet.wait_for_list(b200.devices)
        endpoints.add(kubelet.session.endpoint)
    assert len(endpoints) == 4
    assert len(_sockets(kubelet)) == 1, "the sockets of former registrations are gone"


async def test_a_change_while_the_kubelet_was_away_is_in_the_first_list_of_the_next(kubelet, b200):
    await kubelet.stop()
    await b200.do("xid", device=3, xid=79)
    await kubelet.start()
    await kubelet.wait_for_list(b200.devices)
    assert list(b200.devices.values())[3] == "Unhealthy"
    assert len(kubelet.session.lists) == 1


async def test_a_kubelet_that_comes_later_than_the_plugin_is_found(kubelet, tmp_path):
    await kubelet.stop()
    (kubelet.plugins / "kubelet.sock").unlink(missing_ok=True)
    async with Service(_options(kubelet, tmp_path)).running():
        await kubelet.start()
        await kubelet.wait_for(lambda: kubelet.sessions and kubelet.sessions[-1].lists)


async def test_a_refused_registration_is_logged_with_the_kubelets_words_and_tried_again(kubelet, b200):
    kubelet.refuses = "not now"
    await b200.do("register")
    tries = len(kubelet.requests)
    await kubelet.wait_for(lambda: len(kubelet.requests) > tries + 1)
    kubelet.refuses = ""
    accepted = len(kubelet.sessions)
    await kubelet.wait_for(lambda: len(kubelet.sessions) > accepted)
    await kubelet.wait_for_list(b200.devices)
    assert {line["message"] for line in b200.lines("registration", code="UNKNOWN")} == {"not now"}


async def test_the_old_stream_ends_only_after_the_new_one_is_known(kubelet, b200):
    old = kubelet.session
    await b200.do("register")
    await kubelet.wait_for(lambda: len(kubelet.sessions) == 2)
    assert kubelet.session is not old
    await kubelet.wait_for(lambda: not old.lives)
    await kubelet.wait_for_list(b200.devices)


async def test_allocate_gives_the_variables_of_nvidias_plugin(kubelet, b200):
    first, _, third, *_ = b200.devices
    assert await kubelet.allocate(third, first) == {"NVIDIA_VISIBLE_DEVICES": f"{third},{first}"}
    called, answered = b200.lines("called", rpc="Allocate")[-1], b200.lines("answered", rpc="Allocate")[-1]
    assert called["devices"] == [[third, first]]
    assert answered["environments"] == [{"NVIDIA_VISIBLE_DEVICES": f"{third},{first}"}]
    assert (answered["call"], answered["code"]) == (called["call"], "OK")


async def test_allocate_gives_the_variables_of_rebellions_plugin(kubelet, tmp_path):
    async with Service(_options(kubelet, tmp_path, "atom")).running():
        await kubelet.wait_for(lambda: kubelet.sessions and kubelet.sessions[-1].lists)
        assert kubelet.requests[-1].resource_name == "rebellions.ai/ATOM"
        first, second, *_ = kubelet.session.lists[-1]
        assert first == "0000:10:00.0"
        assert await kubelet.allocate(second, first) == {"PCIDEVICE_REBELLIONS_AI_ATOM": f"{first},{second}"}


async def test_what_is_not_there_is_not_allocated(kubelet, b200):
    first, second, *_ = b200.devices
    await b200.do("remove", device=first)
    with pytest.raises(grpc.aio.AioRpcError, match=f"no such device: {first}"):
        await kubelet.allocate(second, first)


@pytest.mark.parametrize(
    ("available", "must", "size", "wanted"),
    [
        pytest.param(range(8), [], 4, FIRST_NUMA, id="half a server is one NUMA node"),
        pytest.param([0, 1, 2, 3, 5, 6], [], 2, [5, 6], id="a small job takes the fuller node"),
        pytest.param([0, 1, 4, 5, 6], [], 3, [4, 5, 6], id="a node that holds all goes before one that does not"),
        pytest.param(range(8), [1], 2, [0, 1], id="beside the one that must be there"),
        pytest.param([0, 1, 4, 5, 6], [0], 3, [0, 1, 4], id="its node first, then another"),
        pytest.param([2, 7], [], 3, [2, 7], id="fewer than asked for, where there are no more"),
        pytest.param(range(8), [], 8, range(8), id="all"),
    ],
)
async def test_what_is_preferred_is_on_few_numa_nodes(kubelet, b200, available, must, size, wanted):
    ids = list(b200.devices)
    chosen = await kubelet.preferred([ids[i] for i in available], [ids[i] for i in must], size)
    assert sorted(ids.index(each) for each in chosen) == list(wanted)


def _options(kubelet: FakeKubelet, folder: Path, name: str = "b200", **more):
    return options(kubelet, folder / "log", name, **more)


def _sockets(kubelet: FakeKubelet) -> list[str]:
    return [path.name for path in kubelet.plugins.iterdir() if path.name.startswith("fake-")]
