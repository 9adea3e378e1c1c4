"""An API server of a few paths that misbehaves on demand: gaps, 410, 409, 429, stalls, repeats, cut lines.

It keeps the truth; whatever it does to its answers, a client that plays by the rules ends up knowing it.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

Body = dict[str, Any]
Mangle = Callable[[list[bytes]], list[bytes]]


class FakeApi:
    """Objects by path, a log of changes, and the faults to play next."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Body]] = {}
        self.version = 100
        self.compacted = 0  # watches from before this version are answered 410
        self.requests: list[tuple[str, str]] = []
        self.writes: list[tuple[str, str, Any]] = []
        self.lists = 0
        # faults: each is used up by the requests it hits
        self.refuse: deque[tuple[str, int, dict[str, str]]] = deque()  # (method, status, headers)
        self.expire_continue = 0
        self.gone_in_stream = 0  # watches whose first line is an ERROR with code 410
        self.mute = 0  # watches that say nothing at all
        self.cut_after: deque[int] = deque()  # watches that break inside the line after so many
        self.mangle: Mangle | None = None
        self.disruption_budget = False  # every eviction is answered as a PodDisruptionBudget does
        self.hold_writes: asyncio.Event | None = None
        self.in_flight: dict[str, int] = {}
        self.most_in_flight = 0  # on one object
        self.url = ""
        self._log: list[tuple[int, str, str, Body]] = []
        self._news = asyncio.Condition()
        self._uids = itertools.count(1)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # -- the truth ---------------------------------------------------------------------------------

    async def put(self, path: str, name: str, namespace: str = "", **fields: Any) -> Body:
        """Create or replace an object of a collection."""
        known = self.objects.setdefault(path, {})
        self.version += 1
        old = known.get(f"{namespace}/{name}")
        metadata = {
            "uid": f"uid-{next(self._uids)}",
            "creationTimestamp": "2026-11-01T00:00:00Z",
            **(old["metadata"] if old else {}),
            **fields.pop("metadata", {}),
            "name": name,
            "resourceVersion": str(self.version),
        }
        if namespace:
            metadata["namespace"] = namespace
        body = {"metadata": metadata, **fields}
        known[f"{namespace}/{name}"] = body
        await self._note("MODIFIED" if old else "ADDED", path, body)
        return body

    async def drop(self, path: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        body = self.objects[path].pop(f"{namespace}/{name}")
        self.version += 1
        last = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        await self._note("DELETED", path, last)

    async def bookmark(self, path: str) -> None:
        """Send a bookmark of the newest version."""
        body = {"metadata": {"name": "", "resourceVersion": str(self.version)}}
        await self._note("BOOKMARK", path, body)

    def compact(self) -> None:
        """Forget all changes so far: who has not seen them must list again."""
        self.compacted = self.version
        self._log.clear()

    async def _note(self, change: str, path: str, body: Body) -> None:
        async with self._news:
            self._log.append((self.version, change, path, json.loads(json.dumps(body))))
            self._news.notify_all()

    # -- serving -----------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.requests.append((request.method, request.path_qs))
        if self.refuse and self.refuse[0][0] == request.method:
            _, status, headers = self.refuse.popleft()
            return _status(status, "Refused", "refused on demand", headers)
        if request.method == "GET" and path in self.objects:
            if "watch" in request.query:
                return await self._watch(request, path)
            return self._list(request, path)
        return await self._single(request)

    def _list(self, request: web.Request, path: str) -> web.Response:
        self.lists += 1
        held = self.objects[path]
        items = [held[key] for key in sorted(held) if _selected(request, held[key])]
        start = 0
        if token := request.query.get("continue"):
            if self.expire_continue:
                self.expire_continue -= 1
                return _status(410, "Expired", "The provided continue parameter is too old")
            start = int(token)
        limit = int(request.query.get("limit", 0)) or len(items) or 1
        page = items[start : start + limit]
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"kind": "List", "metadata": metadata, "items": page})

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        seen = int(request.query.get("resourceVersion", "0"))
        if seen < self.compacted:
            if self.gone_in_stream:
                self.gone_in_stream -= 1
                return web.Response(body=_line("ERROR", _gone()))
            return _status(410, "Expired", "too old resource version")
        response = web.StreamResponse()
        await response.prepare(request)
        if self.mute:
            self.mute -= 1
            await asyncio.sleep(3600)
        left = self.cut_after.popleft() if self.cut_after else None
        while True:
            async with self._news:
                lines = self._lines(path, seen)
                if not lines:
                    await self._news.wait()
                    if seen < self.compacted:  # the log is gone under a watch: the connection breaks
                        self._cut(request)
                        return response
                    continue
                seen = self.version
            lines = self.mangle(lines) if self.mangle else lines
            for line in lines:
                if left is not None:
                    left -= 1
                    if left < 0:
                        await response.write(line[: len(line) // 2])
                        self._cut(request)
                        return response
                await response.write(line)

    def _lines(self, path: str, seen: int) -> list[bytes]:
        return [
            _line(change, body)
            for version, change, where, body in self._log
            if version > seen and where == path
        ]

    @staticmethod
    def _cut(request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()

    async def _single(self, request: web.Request) -> web.Response:
        text = await request.text()
        self.writes.append((request.method, request.path, json.loads(text) if text else None))
        path = request.path.removesuffix("/status").removesuffix("/eviction")
        self.in_flight[path] = self.in_flight.get(path, 0) + 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight[path])
        try:
            if self.hold_writes is not None:
                await self.hold_writes.wait()
            return self._answer(request, path)
        finally:
            self.in_flight[path] -= 1

    def _answer(self, request: web.Request, path: str) -> web.Response:
        if self.disruption_budget and request.path.endswith("/eviction"):
            causes = [{"reason": "DisruptionBudget", "message": "needs 1 healthy pods"}]
            body = {"kind": "Status", "code": 429, "reason": "TooManyRequests", "details": {"causes": causes}}
            return web.json_response(body, status=429, headers={"Retry-After": "10"})
        collection, _, name = path.rpartition("/")
        for known in self.objects.values():
            for body in known.values():
                if body["metadata"]["name"] == name and _namespace(body) in ("", collection.split("/")[-2]):
                    return web.json_response(body)
        if request.method == "POST":
            return web.json_response(
                {"metadata": {"name": "new", "uid": "u", "resourceVersion": "1"}}, status=201
            )
        return _status(404, "NotFound", f"{request.path} not found")


def _namespace(body: Body) -> str:
    namespace: str = body["metadata"].get("namespace", "")
    return namespace


def _selected(request: web.Request, body: Body) -> bool:
    """Say whether a LIST asks for an object; the only label selector known is that a label is there."""
    label = request.query.get("labelSelector")
    return label is None or label in body["metadata"].get("labels", {})


def _line(change: str, body: Body) -> bytes:
    return json.dumps({"type": change, "object": body}).encode() + b"\n"


def _gone() -> Body:
    return {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code, headers=headers)
