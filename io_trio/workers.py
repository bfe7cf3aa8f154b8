"""`run --workers N`: several processes, each a whole agent, and one that looks after them.

Every worker joins the multicast group and sends its own ACCEPTs: the kernel's queue of requests is the load balancer, and
no request passes through a second process.  The supervisor does no handshake and holds no key.  It

- starts the workers, and ends them when it is told to stop; a second signal cuts them short;
- passes SIGHUP and SIGUSR1 on, and to systemd what the workers tell it (sd_notify), since only the main process is heard;
- starts another worker for one that died.  What the dead one had accepted is closed with it: the kernel's consumers
  see their time-out, others are served meanwhile.  One that dies again and again is started ever later;
- gives up where a worker says that it can't serve at all (no kernel support, no privilege, a configuration that can't be
  used), which the next one could not either.

It waits for blocked signals (`sigtimedwait`), so there is no moment in which one is missed.
"""

import contextlib
import ctypes
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from .handler import Log

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
RELOAD_SIGNALS: Final = frozenset({signal.SIGHUP, signal.SIGUSR1})
_AWAITED: Final = STOP_SIGNALS | RELOAD_SIGNALS | {signal.SIGCHLD}

FINAL_EXIT_CODES: Final = frozenset(
    {0, os.EX_USAGE, os.EX_UNAVAILABLE, os.EX_CANTCREAT, os.EX_NOPERM, os.EX_CONFIG}
)
"""With what a worker says that another one would fare no better."""

FIRST_RESTART_SECONDS: Final = 0.1
LAST_RESTART_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 1.0
"""How often to look for dead workers in any case, should another thread have got the signal."""

RELAY_SECONDS: Final = 0.1
"""How often to look for what workers tell systemd."""

_MAX_NOTE: Final = 4096
"""Bytes of what is told at once; ours have less than a hundred."""

STEADY_SECONDS: Final = 30.0
"""How long to wait before a worker is started anew, at first and at most; one that lived so long starts from the first."""

MAX_WORKERS: Final = 64
"""Each has some 40 MB; the kernel's queue holds 50 requests at most."""

_PR_SET_PDEATHSIG: Final = 1  # include/uapi/linux/prctl.h


@dataclass(slots=True, kw_only=True)
class _Slot:
    """A worker's place.

    Attributes:
        pid: The process that is in it; None if there is none.
        started: When that was started, in monotonic seconds.
        delay: How long to wait before the next one.
        due: When that is to be started, in monotonic seconds.
    """

    pid: int | None = None
    started: float = 0.0
    delay: float = FIRST_RESTART_SECONDS
    due: float = 0.0


class Relay:
    """Passes on what workers tell systemd: they are given this socket in the place of systemd's."""

    def __init__(self, address: str) -> None:
        """Stand in for a socket.

        Args:
            address: NOTIFY_SOCKET: a path, or @ and an abstract name.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("")  # (the kernel chooses an abstract name: unix(7), autobind)
        os.environ["NOTIFY_SOCKET"] = "@" + self._socket.getsockname()[1:].decode()

    def pass_on(self) -> None:
        """Pass on what is there; what systemd does not take is lost, as it would be without a relay."""
        with contextlib.suppress(BlockingIOError):
            while data := self._socket.recv(_MAX_NOTE):
                with contextlib.suppress(OSError):
                    self._socket.sendto(data, self._address)

    def close(self) -> None:
        """Let the socket go."""
        self._socket.close()


class Supervisor:
    """See the module's docstring.

    Args:
        work: What each worker does, in a process of its own.
        count: How many there are.
        log: Where is told what becomes of them.
        relay: Takes what they tell systemd; None where there is none.
    """

    def __init__(self, work: Callable[[], int], *, count: int, log: Log, relay: Relay | None = None) -> None:
        self._relay = relay
        self._work = work
        self._log = log
        self._slots = [_Slot() for _ in range(count)]
        self._stopping = False
        self._exit_code = os.EX_OK

    def run(self) -> int:
        """Look after the workers until all have ended; return the exit code for the process."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        try:
            while self._start_due() or self._alive():
                self._wait()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._exit_code

    def _alive(self) -> list[int]:
        return [slot.pid for slot in self._slots if slot.pid is not None]

    def _start_due(self) -> bool:
        """Start the workers whose time has come; whether any is still to come."""
        if self._stopping:
            return False
        now = time.monotonic()
        for slot in self._slots:
            if slot.pid is None and slot.due <= now:
                self._start(slot, now)
        return True

    def _start(self, slot: _Slot, now: float) -> None:
        pid = os.fork()
        if pid == 0:
            _be_worker(self._work)
        slot.pid, slot.started = pid, now

    def _wait(self) -> None:
        dues = [slot.due for slot in self._slots if slot.pid is None and not self._stopping]
        patience = min([due - time.monotonic() for due in dues], default=LOOK_SECONDS)
        look = LOOK_SECONDS if self._relay is None else RELAY_SECONDS
        info = signal.sigtimedwait(_AWAITED, min(max(0.0, patience), look))
        if self._relay is not None:
            self._relay.pass_on()
        self._reap()
        if info is not None and info.si_signo != signal.SIGCHLD:
            self._stopping = self._stopping or info.si_signo in STOP_SIGNALS
            for pid in self._alive():
                os.kill(pid, info.si_signo)

    def _reap(self) -> None:
        """Take the dead in: several may share one signal."""
        for slot in self._slots:
            if slot.pid is not None and (ended := os.waitpid(slot.pid, os.WNOHANG))[0]:
                self._bury(slot, os.waitstatus_to_exitcode(ended[1]))

    def _bury(self, slot: _Slot, code: int) -> None:
        pid, slot.pid = slot.pid, None
        if self._stopping:
            return
        if code in FINAL_EXIT_CODES:
            self._give_up(code)
            return
        now = time.monotonic()
        if now - slot.started > STEADY_SECONDS:
            slot.delay = FIRST_RESTART_SECONDS
        slot.due = now + slot.delay
        said = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        self._log.error("worker died", pid=pid, reason=f"It {said}.", restart_seconds=slot.delay)
        slot.delay = min(2 * slot.delay, LAST_RESTART_SECONDS)

    def _give_up(self, code: int) -> None:
        self._exit_code = code
        self._stopping = True
        for pid in self._alive():
            os.kill(pid, signal.SIGTERM)


def _be_worker(work: Callable[[], int]) -> NoReturn:
    """Do a worker's work, and end the process."""
    code = os.EX_SOFTWARE
    try:
        os.setpgid(0, 0)  # A terminal's Ctrl-C is the supervisor's to pass on: the second one cuts short.
        # A supervisor that is killed takes its workers along: nobody would tell them to stop.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
