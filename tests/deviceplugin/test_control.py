"""Making it fail: each verb, as the kubelet sees it, and as the log tells it."""

import asyncio

import grpc
import pytest

from deviceplugin.api import deviceplugin_pb2 as api
from deviceplugin.devices import APPLICATION_XIDS


@pytest.mark.parametrize("xid", [48, 74, 79, 95, 119])
async def test_an_xid_of_the_device_makes_it_unhealthy(kubelet, b200, xid):
    assert (await b200.do("xid", device=3, xid=xid))["changed"] is True
    await kubelet.wait_for_list(b200.devices)
    assert [index for index, health in enumerate(b200.devices.values()) if health == "Unhealthy"] == [3]
    (line,) = b200.lines("device")
    assert line["now"] == {"health": "Unhealthy", "why": f"Xid {xid}", "xid": xid}
    assert line["was"] == {"health": "Healthy"}


@pytest.mark.parametrize("xid", sorted(APPLICATION_XIDS))
async def test_an_xid_of_the_application_leaves_it_healthy_and_the_kubelet_unbothered(kubelet, b200, xid):
    answer = await b200.do("xid", device=3, xid=xid)
    assert answer["state"]["devices"][3] | {"health": "Healthy", "xid": xid} == answer["state"]["devices"][3]
    assert answer["state"]["version"] == 0, "there is nothing to tell"
    assert b200.lines("device")[-1]["now"] == {"health": "Healthy", "xid": xid}


async def test_the_ignored_xids_are_those_of_nvidias_plugin():
    assert {13, 31, 43, 45, 68, 109} == APPLICATION_XIDS


async def test_an_application_xid_does_not_heal(kubelet, b200):
    await b200.do("xid", device=3, xid=79)
    answer = await b200.do("xid", device=3, xid=31)
    assert (answer["state"]["devices"][3]["health"], answer["state"]["devices"][3]["why"]) == ("Unhealthy", "Xid 79")


async def test_one_device_heals_or_all(kubelet, b200):
    for device in (1, 2, 3):
        await b200.do("fail", device=device, reason="pulled a cable")
    await b200.do("heal", device=2)
    await kubelet.wait_for_list(b200.devices)
    assert list(b200.devices.values()).count("Unhealthy") == 2
    await b200.do("heal", device="all")
    await kubelet.wait_for_list(dict.fromkeys(b200.devices, "Healthy"))


async def test_a_device_removed_is_on_no_list_and_comes_back_with_its_id(kubelet, b200):
    before = b200.devices
    await b200.do("xid", device=5, xid=79)
    await b200.do("remove", device=5)
    await kubelet.wait_for_list({id_: health for i, (id_, health) in enumerate(before.items()) if i != 5})
    await b200.do("add", device=5)
    await kubelet.wait_for_list(before)


async def test_a_dropped_stream_is_followed_by_a_fresh_registration(kubelet, b200):
    old = kubelet.session
    await b200.do("drop-stream")
    await kubelet.wait_for(lambda: not old.lives)
    await kubelet.wait_for_list(b200.devices)
    assert kubelet.session.endpoint != old.endpoint
    call = b200.lines("called", rpc="ListAndWatch")[0]["call"]
    assert b200.lines("answered", call=call)[0]["code"] == "UNAVAILABLE"


async def test_a_stream_dropped_to_stay_away_stays_away_until_told(kubelet, b200):
    await b200.do("drop-stream", register=False)
    await kubelet.wait_for(lambda: not any(each.lives for each in kubelet.sessions))
    requests = len(kubelet.requests)
    await b200.do("register")
    await kubelet.wait_for_list(b200.devices)
    assert len(kubelet.requests) == requests + 1


async def test_unregistered_it_is_unknown_over_restarts_of_the_kubelet_too(kubelet, b200):
    assert (await b200.do("unregister"))["state"]["registered"] is False
    await kubelet.wait_for(lambda: not any(each.lives for each in kubelet.sessions))
    requests = len(kubelet.requests)
    await kubelet.restart()
    await b200.do("fail", device=1)
    await b200.do("register")
    await kubelet.wait_for_list(b200.devices)
    assert len(kubelet.requests) == requests + 1, "the restart alone brought nobody back"


async def test_a_failing_allocate_says_the_words_it_was_given_so_many_times(kubelet, b200):
    first = next(iter(b200.devices))
    await b200.do("allocate", manner="fail", message="no memory", times=2)
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError, match="no memory"):
            await kubelet.allocate(first)
    assert await kubelet.allocate(first)
    assert [line["code"] for line in b200.lines("answered", rpc="Allocate")] == ["INTERNAL", "INTERNAL", "OK"]


async def test_a_hanging_allocate_is_in_the_log_and_is_answered_once_told(kubelet, b200):
    first = next(iter(b200.devices))
    await b200.do("allocate", manner="hang")
    asked = asyncio.create_task(kubelet.allocate(first))
    await kubelet.session.stub.GetDevicePluginOptions(api.Empty())  # a call later than the one that hangs is answered
    assert not asked.done()
    # The two calls may come in either order: the log says when the hanging one has.
    async with asyncio.timeout(10):
        while not b200.lines("called", rpc="Allocate"):
            await kubelet.session.stub.GetDevicePluginOptions(api.Empty())
    assert not b200.lines("answered", rpc="Allocate")
    await b200.do("allocate", manner="answer")
    assert await asked == {"NVIDIA_VISIBLE_DEVICES": first}


async def test_a_hanging_allocate_that_the_kubelet_gave_up_is_logged_as_cancelled(kubelet, b200):
    await b200.do("allocate", manner="hang", times=1)
    with pytest.raises(grpc.aio.AioRpcError, match="Deadline"):
        await kubelet.session.stub.Allocate(_allocate_of(next(iter(b200.devices))), timeout=0.2)
    async with asyncio.timeout(10):
        while not b200.lines("answered", rpc="Allocate", code="CANCELLED"):
            await kubelet.session.stub.GetDevicePluginOptions(api.Empty())
    assert await kubelet.allocate(next(iter(b200.devices)))


@pytest.mark.parametrize(
    ("verb", "arguments", "says"),
    [
        ("xid", {"device": 8, "xid": 79}, "no device '8'; name one by its id or its index, 0 to 7"),
        ("xid", {"device": 1}, "xid: needed: the number of an Xid, such as 79"),
        ("xid", {"device": 1, "xid": "79"}, "xid: a whole number, not '79'"),
        ("xid", {"device": 1, "xid": 0}, "xid: an Xid is a number from 1 to 1000, not 0"),
        ("xid", {"xid": 79}, "device: needed, as a string"),
        ("add", {"device": 1}, "device 1 is there: only one that was removed can be added"),
        ("load", {"device": 1, "percent": 101}, "percent: a load is 0 to 100, not 101"),
        ("load", {"device": 1, "memory_mib": -1}, "memory_mib: not -1: used memory is 0 or more"),
        ("allocate", {"manner": "explode"}, "manner: 'explode' is none of answer, fail, hang"),
        ("allocate", {"manner": "fail", "times": 0}, "times: 0 calls are none"),
        ("heal", {"device": "all", "colour": 1}, "no argument 'colour' here"),
        ("explode", {}, "no verb 'explode'; there are: xid, fail, heal"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_rule_and_changes_nothing(b200, verb, arguments, says):
    before = b200.service.control.state()
    answer = await b200.do(verb, **arguments)
    assert answer["status"] == 400 and says in answer["error"]
    assert b200.service.control.state() == before
    (line,) = b200.lines("control", verb=verb)
    assert line["arguments"] == arguments and says in line["refused"]


async def test_a_body_that_is_no_object_is_refused(b200):
    for body in ("{", "[]"):
        async with b200.http.post(f"http://127.0.0.1:{b200.service.control_port}/heal", data=body) as answer:
            assert answer.status == 400


async def test_what_is_removed_can_only_be_added(b200):
    await b200.do("remove", device=1)
    for verb, more in (("xid", {"xid": 79}), ("fail", {}), ("heal", {}), ("remove", {}), ("load", {})):
        assert "device 1 is removed: add it first" in (await b200.do(verb, device=1, **more))["error"]


def _allocate_of(*ids):
    return api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=ids)])
