"""What happened, one JSON object a line: for tests to read, and people.

Each line has `time` (UTC, RFC 3339 with microseconds), `run` (which process wrote it), `line` (its number in that
run, without gaps) and `event`. A call is written when it comes and again when it is answered, so that one which
hangs, or which this process did not live to answer, is there all the same. README.md lists the events.
"""

import itertools
import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from deviceplugin.devices import Device


class Log:
    """Writes lines to a stream, and to a file where one is given; each is out before its event goes on."""

    def __init__(self, stream: TextIO, file: Path | None = None) -> None:
        # Appended to, so that a pod's successor goes on where it ended.
        self._outs = [stream] if file is None else [stream, file.open("a")]
        self._file = None if file is None else self._outs[1]
        self._run = secrets.token_hex(4)
        self._lines, self._calls = itertools.count(1), itertools.count(1)

    def write(self, event: str, **what: Any) -> None:
        """Write one line."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, "run": self._run, "line": next(self._lines), "event": event, **what})
        for out in self._outs:
            out.write(line + "\n")
            out.flush()

    def called(self, rpc: str, **what: Any) -> int:
        """Write that a call came; return the number that its answer is to carry."""
        call = next(self._calls)
        self.write("called", call=call, rpc=rpc, **what)
        return call

    def answered(self, call: int, rpc: str, code: str = "OK", **what: Any) -> None:
        """Write what a call was answered with; code is gRPC's word for it."""
        self.write("answered", call=call, rpc=rpc, code=code, **what)

    def changed(self, before: Device, after: Device) -> None:
        """Write how a device differs from what it was."""
        self.write("device", id=after.id, index=after.index, was=_state(before), now=_state(after))

    def pushed(self, call: int, endpoint: str, devices: Sequence[tuple[str, str]]) -> None:
        """Write the list that went out on a stream."""
        self.write("pushed", call=call, endpoint=endpoint, devices=dict(devices))

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()


def _state(device: Device) -> dict[str, Any]:
    told = {"health": device.health if device.present else "Removed", "why": device.fault, "xid": device.xid,
            "load": device.load, "memory_mib": device.memory_mib}
    return {key: value for key, value in told.items() if value not in ("", None) and (key, value) != ("xid", 0)}
