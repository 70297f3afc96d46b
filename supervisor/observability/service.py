"""The service manager's side of things: systemd's notification protocol (sd_notify(3)), which is one datagram
per fact.

Without a manager (no `NOTIFY_SOCKET`) everything here does nothing. A manager that is away is no reason to
end.
"""

import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

import attrs
import trio


@attrs.frozen
class Service:
    """This process as its manager sees it.

    Attributes:
        address: of the manager's socket; empty without one.
        watchdog: seconds of silence after which the manager takes this process for hung; infinite when never.
    """

    address: str
    watchdog: float

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Service":
        """Return what `environment` says. `WATCHDOG_PID` is not looked at: a successor has another number
        than the process that was started.
        """
        microseconds = environment.get("WATCHDOG_USEC", "")
        watchdog = int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) else math.inf
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog)

    @classmethod
    def of_this_process(cls) -> "Service":
        """Return what this process's environment says."""
        return cls.of(os.environ)

    def tell(self, **facts: str) -> None:
        """Tell the manager, without ever waiting for it."""
        if not self.address:
            return
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        text = "".join(f"{key}={value}\n" for key, value in facts.items())
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
            suppress(OSError),
        ):
            sender.sendto(text.encode(), name)

    def ready(self, status: str) -> None:
        """Say that this process serves."""
        self.tell(READY="1", STATUS=status)

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` ends it. The time is for `Type=notify-reload` (systemd
        253)."""
        self.tell(
            RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000), STATUS="starting a successor"
        )

    async def keep_alive(self) -> None:
        """Show the manager at half its patience that the event loop turns."""
        if math.isinf(self.watchdog):
            return
        while True:
            self.tell(WATCHDOG="1")
            await trio.sleep(self.watchdog / 2)
