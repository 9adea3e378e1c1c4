"""A small Kubernetes client: bytes in, bytes out, over one aiohttp session.

It knows paths, pages, watch lines, errors and 429; what the bytes mean is for project.py and kinds.py.
Why not the official client: its models cost some 1 ms an object, which is the whole budget of 1,000 pods.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from yarl import URL

from gpugrant.observe.credentials import Credentials
from gpugrant.observe.server_clock import ServerClock

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
SILENCE_SECONDS = 70.0  # bookmarks come every minute; longer silence is a dead connection
PAGE_SIZE = 500
_TRIES = 6
_LONGEST_PAUSE = 10.0
_REQUEST_SECONDS = 30.0
_LIST_SECONDS = 120.0


class ApiError(Exception):
    """The API server's answer where it is no success: HTTP status, reason and message of its Status."""

    def __init__(
        self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}

    @property
    def by_disruption_budget(self) -> bool:
        """Say whether a PodDisruptionBudget refused, which no waiting of ours will change."""
        causes = self.details.get("causes") or ()
        return any(cause.get("reason") == "DisruptionBudget" for cause in causes)


class UnreachableError(ApiError):
    """No answer came: the connection failed, or it was cut before the answer was whole."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "Unreachable", message)


class SilentError(ApiError):
    """A watch said nothing for so long that its connection may be dead."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "Silent", message)


class Page(msgspec.Struct):
    """One page of a LIST: raw items, the collection's version, the token of the next page."""

    items: list[msgspec.Raw]
    version: str
    next: str


class _ListMeta(msgspec.Struct, rename={"version": "resourceVersion", "next": "continue"}):
    version: str = ""
    next: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | None = None


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    code: int = 0
    details: dict[str, Any] | None = None


_decode_list = msgspec.json.Decoder(_List).decode
_decode_status = msgspec.json.Decoder(_Status).decode


def parse_status(body: bytes, status: int = 0) -> ApiError:
    """Return the error a Status object (or any other body of a refusal) tells of."""
    try:
        told = _decode_status(body)
    except msgspec.MsgspecError:
        return ApiError(status, "Unknown", body[:300].decode(errors="replace"))
    return ApiError(told.code or status, told.reason or "Unknown", told.message, told.details)


class Client:
    """One session with one API server; ``clock`` goes by its answers."""

    def __init__(
        self, credentials: Credentials, user_agent: str = "gpugrant", clock: ServerClock | None = None
    ) -> None:
        self.credentials = credentials
        self.clock = clock or ServerClock()
        self._agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._paused_until = 0.0

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # limit=0: the callers bound what is in flight; a bound here would let watches block writes.
            connector = aiohttp.TCPConnector(
                ssl=self.credentials.tls if self.credentials.tls is not None else True,
                limit=0,
                keepalive_timeout=60,
            )
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=True, headers={"User-Agent": self._agent, "Accept": JSON}
            )
        return self._session

    def _url(self, path: str, params: Mapping[str, str] | None) -> URL:
        url = URL(self.credentials.server + path)
        return url.with_query(params) if params else url

    def _headers(self) -> dict[str, str]:
        token = self.credentials.token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    # -- single objects ----------------------------------------------------------------------------

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """Return the object at ``path``."""
        return await self.send("GET", path, params=params)

    async def post(self, path: str, body: bytes) -> bytes:
        """Create an object, or call a subresource."""
        return await self.send("POST", path, body, JSON)

    async def put(self, path: str, body: bytes) -> bytes:
        """Replace an object."""
        return await self.send("PUT", path, body, JSON)

    async def patch(self, path: str, body: bytes, content_type: str = JSON_PATCH) -> bytes:
        """Patch an object; return it as it is now."""
        return await self.send("PATCH", path, body, content_type)

    async def delete(self, path: str, body: bytes = b"") -> bytes:
        """Delete an object; ``body`` holds DeleteOptions."""
        return await self.send("DELETE", path, body, JSON)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = JSON,
        *,
        params: Mapping[str, str] | None = None,
        seconds: float = _REQUEST_SECONDS,
    ) -> bytes:
        """Send one request and return the answer's body. Raises ApiError, UnreachableError.

        429 is waited out as the server asks (Retry-After), at most ``_TRIES`` times: it means nothing was
        done. A refusal by a PodDisruptionBudget is a 429 too, but an answer: it is raised at once.
        """
        loop = asyncio.get_running_loop()
        for attempt in range(_TRIES):
            if self._paused_until > (now := loop.time()):
                await asyncio.sleep(self._paused_until - now)
            status, retry_after, answer = await self._once(method, path, body, content_type, params, seconds)
            if status < 400:
                return answer
            error = parse_status(answer, status)
            if status != 429 or error.by_disruption_budget or attempt == _TRIES - 1:
                raise error
            pause = min(_LONGEST_PAUSE, max(retry_after, 0.1 * 2**attempt)) * random.uniform(1.0, 1.2)
            # One pause for all requests: those that come after the refused one would be refused too.
            self._paused_until = max(self._paused_until, loop.time() + pause)
        raise AssertionError("unreachable")

    async def _once(
        self,
        method: str,
        path: str,
        body: bytes,
        content_type: str,
        params: Mapping[str, str] | None,
        seconds: float,
    ) -> tuple[int, float, bytes]:
        headers = self._headers()
        if body:
            headers["Content-Type"] = content_type
        sent_at = time.monotonic()
        try:
            async with self._open().request(
                method,
                self._url(path, params),
                data=body or None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                self.clock.heard(response.headers.get("Date"), sent_at, time.monotonic())
                return response.status, _seconds(response.headers.get("Retry-After")), await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnreachableError(f"{method} {path}: {type(error).__name__} {error}") from None

    # -- collections -------------------------------------------------------------------------------

    async def pages(
        self, path: str, params: Mapping[str, str] | None = None, limit: int = PAGE_SIZE
    ) -> AsyncGenerator[Page, None]:
        """Yield the pages of a LIST. A ``continue`` token that has expired is an ApiError with status 410."""
        query = dict(params or {})
        if limit:
            query["limit"] = str(limit)
        while True:
            body = await self.send("GET", path, params=query, seconds=_LIST_SECONDS)
            try:
                listed = _decode_list(body)
            except msgspec.MsgspecError as error:
                raise UnreachableError(f"LIST {path}: {error}") from None
            del body
            yield Page(listed.items or [], listed.metadata.version, listed.metadata.next)
            if not listed.metadata.next:
                return
            query["continue"] = listed.metadata.next

    async def watch(
        self,
        path: str,
        params: Mapping[str, str],
        silence: float = SILENCE_SECONDS,
        server_seconds: int = 300,
    ) -> AsyncGenerator[list[bytes], None]:
        """Yield the lines of a WATCH as they come, in batches; end when the server ends it.

        Raises ApiError (410 where the version is too old), SilentError when nothing comes for ``silence``
        seconds, UnreachableError when the connection breaks. A last line that is not whole is left out.
        """
        query = {**params, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(server_seconds)}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence)
        try:
            async with self._open().get(
                self._url(path, query), headers=self._headers(), timeout=limits
            ) as response:
                if response.status >= 400:
                    raise parse_status(await response.read(), response.status)
                yield []  # the stream is open, though it may say nothing for a minute
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if lines:
                        yield [line for line in lines if line]
        except aiohttp.SocketTimeoutError:
            raise SilentError(f"WATCH {path}: nothing for {silence:.0f} s") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnreachableError(f"WATCH {path}: {type(error).__name__} {error}") from None


def _seconds(header: str | None) -> float:
    try:
        return float(header or 0)
    except ValueError:
        return 1.0
