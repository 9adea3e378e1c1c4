"""The devices as they are now, and who waits for them to change."""

import asyncio

from deviceplugin.devices import Devices, listed
from deviceplugin.log import Log


class Stock:
    """Holds the devices of this server. Each set that differs is a version; waiting for the next loses none."""

    def __init__(self, devices: Devices, log: Log) -> None:
        self.devices = devices
        self.version = 0
        self._log = log
        self._change = asyncio.Event()

    def replace(self, devices: Devices) -> bool:
        """Take other devices for these; log each that differs. Return whether any does."""
        if devices == self.devices:
            return False
        for before, after in zip(self.devices, devices, strict=True):
            if before != after:
                self._log.changed(before, after)
        told = listed(devices) != listed(self.devices)
        self.devices = devices
        if told:
            # What only metrics show is nothing to tell the kubelet.
            self.version += 1
            self._change.set()
            self._change = asyncio.Event()
        return True

    async def wait_past(self, version: int) -> None:
        """Wait until the version is another than ``version``."""
        while self.version == version:
            await self._change.wait()
