"""How people and tests make it fail: POST /VERB with a JSON object of arguments, on localhost; GET /state.

An answer is {"changed": …, "state": …}, or 400 with {"error": …}, and then nothing has changed. The pod's
localhost is its own: from elsewhere, `kubectl exec` or `kubectl port-forward`.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from deviceplugin import devices
from deviceplugin.devices import Devices
from deviceplugin.log import Log
from deviceplugin.plugin import Allocating, Manner
from deviceplugin.profiles import Profile
from deviceplugin.registration import Registration
from deviceplugin.stock import Stock

Arguments = dict[str, Any]
MANNERS: dict[str, Manner] = {"answer": "answer", "fail": "fail", "hang": "hang"}


class Control:
    """The verbs. Each takes its arguments, says what of them is wrong, or does it and says whether anything changed."""

    def __init__(self, profile: Profile, stock: Stock, allocating: Allocating, registration: Registration,
                 log: Log) -> None:
        self._profile, self._stock, self._allocating = profile, stock, allocating
        self._registration, self._log = registration, log
        self._verbs: dict[str, Callable[[Arguments], Awaitable[bool]]] = {
            "xid": self._xid, "fail": self._fail, "heal": self._heal, "remove": self._remove, "add": self._add,
            "load": self._load, "allocate": self._allocate, "drop-stream": self._drop_stream,
            "unregister": self._unregister, "register": self._register,
        }

    def application(self) -> web.Application:
        """Return the HTTP application."""
        application = web.Application()
        application.router.add_get("/state", self._on_state)
        application.router.add_post("/{verb}", self._on_verb)
        return application

    async def do(self, verb: str, arguments: Arguments) -> bool:
        """Do one thing; log it. Return whether anything changed. Raises ValueError and LookupError."""
        rest = dict(arguments)
        try:
            if verb not in self._verbs:
                raise LookupError(f"no verb {verb!r}; there are: {', '.join(self._verbs)}")
            changed = await self._verbs[verb](rest)
        except (ValueError, LookupError) as error:
            self._log.write("control", verb=verb, arguments=arguments, refused=str(error))
            raise
        self._log.write("control", verb=verb, arguments=arguments, changed=changed)
        return changed

    def state(self) -> dict[str, Any]:
        """Return all that can be known of it, as JSON."""
        return {
            "profile": self._profile.name, "resource": self._profile.resource,
            "registered": bool(self._registration.endpoint), "endpoint": self._registration.endpoint,
            "streams": self._registration.streams, "version": self._stock.version,
            "allocate": {"manner": self._allocating.manner, "times": self._allocating.times},
            "devices": [{"index": each.index, "id": each.id, "health": each.health, "present": each.present,
                         "why": each.fault, "xid": each.xid, "load": each.load, "memory_mib": each.memory_mib}
                        for each in self._stock.devices],
        }

    # -- HTTP ---------------------------------------------------------------------------------------------

    async def _on_state(self, _: web.Request) -> web.Response:
        return web.json_response(self.state())

    async def _on_verb(self, request: web.Request) -> web.Response:
        try:
            text = await request.text()
            arguments = json.loads(text) if text else {}
            if not isinstance(arguments, dict):
                raise ValueError("the body must be a JSON object of arguments")
            changed = await self.do(request.match_info["verb"], arguments)
        except (ValueError, LookupError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"changed": changed, "state": self.state()})

    # -- devices ------------------------------------------------------------------------------------------

    async def _xid(self, arguments: Arguments) -> bool:
        name, xid = _text(arguments, "device"), _integer(arguments, "xid")
        _no_more(arguments)
        if self._profile.vendor != "nvidia":
            raise ValueError(f"xid: {self._profile.resource} knows no Xids; say fail")
        if xid is None:
            raise ValueError("xid: needed: the number of an Xid, such as 79")
        return self._stock.replace(devices.with_xid(self._stock.devices, name, xid))

    async def _fail(self, arguments: Arguments) -> bool:
        name, reason = _text(arguments, "device"), _text(arguments, "reason", "")
        _no_more(arguments)
        return self._stock.replace(devices.with_fault(self._stock.devices, name, reason))

    async def _heal(self, arguments: Arguments) -> bool:
        name = _text(arguments, "device")
        _no_more(arguments)
        if name != "all":
            return self._stock.replace(devices.healed(self._stock.devices, name))
        now: Devices = self._stock.devices
        for each in now:
            now = devices.healed(now, each.id) if each.present else now
        return self._stock.replace(now)

    async def _remove(self, arguments: Arguments) -> bool:
        name = _text(arguments, "device")
        _no_more(arguments)
        return self._stock.replace(devices.without(self._stock.devices, name))

    async def _add(self, arguments: Arguments) -> bool:
        name = _text(arguments, "device")
        _no_more(arguments)
        return self._stock.replace(devices.with_again(self._stock.devices, name))

    async def _load(self, arguments: Arguments) -> bool:
        name = _text(arguments, "device")
        percent, memory_mib = _integer(arguments, "percent"), _integer(arguments, "memory_mib")
        _no_more(arguments)
        return self._stock.replace(devices.with_load(self._stock.devices, name, percent, memory_mib))

    # -- calls and streams --------------------------------------------------------------------------------

    async def _allocate(self, arguments: Arguments) -> bool:
        manner, message = _text(arguments, "manner"), _text(arguments, "message", "failed on request")
        times = _integer(arguments, "times")
        _no_more(arguments)
        if manner not in MANNERS:
            raise ValueError(f"manner: {manner!r} is none of {', '.join(MANNERS)}")
        if times is not None and times < 1:
            raise ValueError(f"times: {times} calls are none; leave it out for all calls until told otherwise")
        self._allocating.tell(MANNERS[manner], message if manner == "fail" else "", times)
        return True

    async def _drop_stream(self, arguments: Arguments) -> bool:
        again = arguments.pop("register", True)
        _no_more(arguments)
        if not isinstance(again, bool):
            raise ValueError("register: true, to register again at once, or false")
        if not self._registration.endpoint:
            raise ValueError("not registered: there is no stream to drop")
        await self._registration.drop_streams()
        if again:
            await self._registration.register_again()
        return True

    async def _unregister(self, arguments: Arguments) -> bool:
        _no_more(arguments)
        await self._registration.stay_away()
        return True

    async def _register(self, arguments: Arguments) -> bool:
        _no_more(arguments)
        await self._registration.register_again()
        return True


def _text(arguments: Arguments, name: str, default: str | None = None) -> str:
    value = arguments.pop(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a device's index
    if not isinstance(value, str):
        raise ValueError(f"{name}: needed, as a string" if value is None else f"{name}: a string, not {value!r}")
    return value


def _integer(arguments: Arguments, name: str) -> int | None:
    value = arguments.pop(name, None)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{name}: a whole number, not {value!r}")
    return value


def _no_more(arguments: Arguments) -> None:
    if arguments:
        raise ValueError(f"no argument {', '.join(map(repr, arguments))} here")
