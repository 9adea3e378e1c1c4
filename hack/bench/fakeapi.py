"""An API server that serves stored LISTs, open watches that say nothing, a Lease, and status patches.

For sizes that no dev cluster reaches. python -m bench.fakeapi FOLDER PORT
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from bench.bodies import Json, encode, merge_patch
from bench.lists import pages
from gpugrant import names
from gpugrant.observe.kinds import OWN_KINDS

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_DISCOVERY: dict[str, Json] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [
            {
                "name": names.GROUP,
                "versions": [{"groupVersion": names.API_VERSION, "version": names.VERSION}],
                "preferredVersion": {"groupVersion": names.API_VERSION, "version": names.VERSION},
            }
        ],
    },
    f"/apis/{names.API_VERSION}": {
        "kind": "APIResourceList",
        "groupVersion": names.API_VERSION,
        "resources": [
            {
                "name": own.plural,
                "singularName": own.kind.lower(),
                "kind": own.kind,
                "namespaced": own.kind == "GpuGrant",
                "verbs": _VERBS,
            }
            for own in OWN_KINDS.values()
        ],
    },
}


class FakeApi:
    """Serves what lies in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, Json] = {}  # leases and what was patched, by path
        self._version = 10**9

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        path = request.path
        if path in _DISCOVERY:
            return web.json_response(_DISCOVERY[path])
        if request.method == "GET" and "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.Event().wait()
        if request.method == "GET" and (files := pages(self._folder, path)):
            number = int(request.query.get("continue") or 0) // 500
            return web.Response(body=files[number].read_bytes(), content_type="application/json")
        if request.method == "GET" and path in self._kept:
            return web.json_response(self._kept[path])
        if request.method in ("POST", "PUT", "PATCH"):
            return self._write(request, await request.read())
        return web.json_response(
            {"kind": "Status", "code": 404, "reason": "NotFound", "message": path}, status=404
        )

    def _write(self, request: web.Request, text: bytes) -> web.Response:
        body: Any = msgspec.json.decode(text)
        path = request.path.removesuffix("/status")
        if request.method == "PATCH":
            if not isinstance(body, dict):  # a JSON patch: everything is settled, none should come
                return web.json_response({"kind": "Status", "code": 422, "reason": "Invalid"}, status=422)
            body = merge_patch(self._known(path), body)
        if request.method == "POST":
            path += f"/{body['metadata'].get('name', '')}"
        self._version += 1
        body["metadata"] = {"uid": f"uid-{path}", **body["metadata"], "resourceVersion": str(self._version)}
        self._kept[path] = body
        return web.Response(body=encode(body), content_type="application/json")

    def _known(self, path: str) -> Json:
        if path not in self._kept:
            base = f"/apis/{names.API_VERSION}"
            kind, name = path.split("/")[-2:]
            namespace = path.split("/")[-3] if "/namespaces/" in path else ""
            for file in pages(self._folder, f"{base}/{kind}"):
                for item in msgspec.json.decode(file.read_bytes())["items"]:
                    meta = item["metadata"]
                    own = f"{base}/namespaces/{meta['namespace']}/{kind}" if namespace else f"{base}/{kind}"
                    self._kept.setdefault(f"{own}/{meta['name']}", item)
            self._kept.setdefault(path, {"metadata": {"name": name}})
        return self._kept[path]


async def serve(folder: Path, port: int) -> None:
    """Serve for ever."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", FakeApi(folder).serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
