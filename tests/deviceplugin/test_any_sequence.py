"""Whatever is done to it, in whatever order, the kubelet ends up knowing what is so, and the log tells all of it."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import aiohttp
import grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.service import Service
from kubelet_kit.kubelet import Disconnected, FakeKubelet
from kubelet_kit.running import Running, options

DEVICE = st.integers(0, 4)  # one of 4, or one that is not there
STEP = st.one_of(
    st.tuples(st.just("xid"), st.fixed_dictionaries({"device": DEVICE, "xid": st.sampled_from([31, 48, 79])})),
    st.tuples(st.sampled_from(["fail", "heal", "remove", "add", "load"]), st.fixed_dictionaries({"device": DEVICE})),
    st.tuples(st.just("heal"), st.just({"device": "all"})),
    st.tuples(st.just("drop-stream"), st.fixed_dictionaries({"register": st.booleans()})),
    st.tuples(st.sampled_from(["unregister", "register"]), st.just({})),
    st.tuples(st.sampled_from(["RESTART", "ALLOCATE", "SETTLE"]), st.just({})),
)


class Model:
    """What four devices should be after what was said, told anew and in fewer words."""

    def __init__(self) -> None:
        self.health = dict.fromkeys(range(4), "Healthy")
        self.gone: set[int] = set()

    def say(self, verb: str, device: int | str | None = None, xid: int = 0, **_) -> None:
        everyone = self.health.keys() - self.gone
        if verb == "add" and device in self.gone:
            self.gone.remove(device)
            self.health[device] = "Healthy"
        for each in everyone if device == "all" else everyone & {device}:
            if verb == "fail" or (verb == "xid" and xid != 31):
                self.health[each] = "Unhealthy"
            elif verb == "heal":
                self.health[each] = "Healthy"
            elif verb == "remove":
                self.gone.add(each)

    def list(self, ids: list[str]) -> dict[str, str]:
        return {ids[i]: health for i, health in self.health.items() if i not in self.gone}


@settings(max_examples=25)
@given(steps=st.lists(STEP, max_size=12))
async def test_the_last_list_is_the_models_the_ids_are_stable_and_no_call_is_missing_in_the_log(steps):
    with tempfile.TemporaryDirectory(prefix="kubelet-") as folder:
        kubelet, log = FakeKubelet(Path(folder)), Path(folder) / "log"
        await kubelet.start()
        service, model, said = Service(options(kubelet, log, count=4)), Model(), Counter()
        async with aiohttp.ClientSession() as http, service.running():
            running = Running(service, log, http)
            ids, allocated = list(running.devices), 0
            for verb, arguments in steps:
                if verb == "RESTART":
                    await kubelet.restart()
                elif verb == "SETTLE" and service.registration.endpoint and service.registration.streams:
                    await kubelet.wait_for_list(model.list(ids))
                elif verb == "ALLOCATE" and any(each.lives for each in kubelet.sessions):
                    allocated += await _allocated(kubelet, ids[0])
                elif verb.islower():
                    await running.do(verb, **arguments)
                    model.say(verb, **arguments)
                    said[verb] += 1
            await running.do("register")
            said["register"] += 1
            await kubelet.wait_for_list(model.list(ids))
            assert running.devices == model.list(ids)
        await kubelet.stop()
        assert {id_ for each in kubelet.sessions for told in each.lists for id_ in told} <= set(ids)
        _check_log(log, kubelet, said, allocated)


async def _allocated(kubelet: FakeKubelet, id_: str) -> bool:
    """Ask for a device; say whether the call surely came. It may be gone, or its stream just ending."""
    try:
        await kubelet.allocate(id_)
    except Disconnected:
        return False
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.INTERNAL and "no such device" in (error.details() or "")
    return True


def _check_log(log: Path, kubelet: FakeKubelet, said: Counter[str], allocated: int) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["line"] for line in lines] == list(range(1, len(lines) + 1)), "a line is missing"
    assert Counter(line["verb"] for line in lines if line["event"] == "control") == said
    called = {line["call"]: line for line in lines if line["event"] == "called"}
    answered = Counter(line["call"] for line in lines if line["event"] == "answered")
    assert dict(answered) == dict.fromkeys(called, 1), "each call is answered once"
    calls = Counter(line["rpc"] for line in called.values())
    assert calls["Allocate"] >= allocated
    assert len(kubelet.sessions) <= calls["GetDevicePluginOptions"]
    for session in kubelet.sessions:
        to_it = [line for line in lines if line["event"] == "pushed" and line["endpoint"] == session.endpoint]
        pushed = [line["devices"] for line in to_it]
        # A list that was written while the stream broke may not have come; none came that was not written.
        assert pushed[: len(session.lists)] == session.lists
