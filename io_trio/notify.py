"""Tells systemd how the agent is: sd_notify(3), a datagram to the socket that NOTIFY_SOCKET names.

    READY=1                                it serves
    RELOADING=1, MONOTONIC_USEC=..         it reads its configuration again; READY=1 ends that
    STOPPING=1                             it finishes what is under way
    WATCHDOG=1                             its event loop still turns: twice in each WATCHDOG_USEC

Nothing is told where nobody listens, and a datagram that can't be sent is no reason to end.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

import trio


class Notifier:
    """See the module's docstring."""

    def __init__(self, address: str | None = None, *, watchdog_seconds: float | None = None) -> None:
        """Tell nothing yet.

        Args:
            address: The socket's path, or @ and an abstract name; None for nobody.
            watchdog_seconds: After which silence the agent counts as hung; None for never.
        """
        self._address = address
        self._watchdog_seconds = watchdog_seconds

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Notifier":
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; what is malformed counts as absent."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        # The main process is this one, or the one that looks after this worker.
        watched = environment.get("WATCHDOG_PID") in (None, str(os.getpid()), str(os.getppid()))
        seconds = (
            int(microseconds) / 1e6 if watched and microseconds.isascii() and microseconds.isdigit() else 0
        )
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_seconds=seconds or None)

    def ready(self) -> None:
        """It serves; also at the end of a reload."""
        self._tell("READY=1", "STATUS=Serving handshake requests.")

    def reloading(self) -> None:
        """It reads its configuration again."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reloading.")

    def stopping(self) -> None:
        """It finishes what is under way."""
        self._tell("STOPPING=1", "STATUS=Finishing handshakes.")

    async def keep_awake(self) -> None:
        """Tell the watchdog that the event loop turns, for as long as this runs."""
        if self._watchdog_seconds is None:
            return
        while True:
            self._tell("WATCHDOG=1")
            await trio.sleep(self._watchdog_seconds / 2)

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        path = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)  # noqa: FBT003 - its only parameter
            sock.sendto("\n".join(lines).encode(), path)
