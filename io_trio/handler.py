"""One request, from ACCEPT to its descriptor's end: carries out the actions of `Session`.

Every decision is the session's; here is only what it can't do without I/O:

    Send, Receive    move bytes between the socket and the session, until the deadline or until the consumer hangs up
    InstallKeys      put the keys into the socket
    SendDone         DONE, and its answer
    CloseSocket      drop the descriptor

**DONE is sent once, whatever happens.**  Cancellation from outside (the agent stops) and exceptions become inputs
of the session, which answers with SendDone; that runs in a shielded scope with the lifecycle's own deadline.  This is
the only place where `Exception` is caught: a defect in one request must neither leave its consumer waiting nor end the
others.

**One engine computes at a time.**  With ten handshakes ready to compute, a READY would wait for all ten, and the kernel's
queue of a few requests overflows meanwhile.  Taking turns (see `turn`), the acceptor comes in after each step.  Measured in
UML, one CPU, 32 clients at once: 26 to 113 of 300 connections turned away by the kernel instead of 152, at nearly
twice the rate.
"""

import datetime as dt
import errno
import os
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, assert_never

import trio

from ktls_agent.sansio.activity import Activity
from ktls_agent.sansio.ktls import KernelSecrets
from ktls_agent.sansio.lifecycle import CloseSocket, Deadlines, InstallKeys, SendDone
from ktls_agent.sansio.netlink.events import DoneAnswered
from ktls_agent.sansio.policy import Credentials
from ktls_agent.sansio.request import (
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from ktls_agent.sansio.session import Action, Receive, Send, Session
from ktls_agent.sansio.status import Cause, Failure, failure
from ktls_agent.sansio.steps import Datagram, Interruption, Summarized, Trace, no_trace
from ktls_agent.sansio.summary import log_fields, summarize
from ktls_agent.sansio.tls.parameters import Entropy
from ktls_agent.sansio.tls.records import HEADER_LENGTH
from ktls_agent.sansio.tls.tickets import PEEK_SIZE

from .keyring import Keyring
from .keys import RequestKeys
from .ktls import KeyInstaller, KeysRefused
from .tcp import ConsumerHungUp, HandshakeSocket
from .turn import Turn

_NO_RESOURCES: Final = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS)


class DoneSender(Protocol):
    """Reports to the kernel; `HandshakeNetlink` is one."""

    async def done(
        self, *, sockfd: int, status: int, remote_auth: tuple[int, ...], deadline: float, trace: Trace
    ) -> DoneAnswered | None:
        """Send DONE; return its answer, None if it was lost."""
        ...


class Log(Protocol):
    """The part of a structlog logger that is used here."""

    def debug(self, event: str, **fields: object) -> object:
        """Log what only somebody who looks for a fault wants to see."""
        ...

    def info(self, event: str, **fields: object) -> object:
        """Log what went as it should."""
        ...

    def warning(self, event: str, **fields: object) -> object:
        """Log what somebody may have to look at."""
        ...

    def error(self, event: str, **fields: object) -> object:
        """Log what somebody has to look at."""
        ...


def wall_clock() -> dt.datetime:
    """Return the current time, for certificates."""
    return dt.datetime.now(dt.UTC)


def no_trace_for(_sockfd: int) -> Trace:
    """Return the trace that is there when nobody looks."""
    return no_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What requests share.

    Attributes:
        credentials: Returns the credentials in use.
        installer: Takes the keys.
        keyring: The kernel's keyrings.
        log: Where the log line of each request goes.
        link_keyrings: Links what keyrings have come; called when a key is wanted.
        entropy: The engine's randomness.
        wall_clock: The time for certificates.
        deadlines: How long requests may take.
        trace_for: Makes the trace of a request, by its descriptor.
        turn: Held while an engine computes.
        activity: Counts what happens.
    """

    credentials: Callable[[], Credentials]
    installer: KeyInstaller
    keyring: Keyring
    log: Log
    link_keyrings: Callable[[], object] = lambda: None
    entropy: Entropy = os.urandom
    wall_clock: Callable[[], dt.datetime] = wall_clock
    deadlines: Deadlines = field(default_factory=Deadlines)
    trace_for: Callable[[int], Trace] = no_trace_for
    turn: Turn = field(default_factory=Turn)
    activity: Activity = field(default_factory=Activity)


async def handle_request(
    request: HandshakeRequest | InvalidRequest,
    services: Services,
    netlink: DoneSender,
    accepted: Sequence[Datagram] = (),
) -> None:
    """Carry one request out; its descriptor is closed when this returns, however it ends.

    Args:
        request: What the kernel asks for.
        services: What requests share.
        netlink: Where DONE goes.
        accepted: The datagrams that brought the request, for its trace.
    """
    await _Handler(request, services, netlink, accepted).run()


class _Handler:
    def __init__(
        self,
        request: HandshakeRequest | InvalidRequest,
        services: Services,
        netlink: DoneSender,
        accepted: Sequence[Datagram],
    ) -> None:
        self._services = services
        self._netlink = netlink
        self._sockfd = request.sockfd
        self._trace = services.trace_for(request.sockfd)
        for datagram in accepted:
            self._trace(datagram)
        self._session = Session(
            request,
            keys=RequestKeys(services.keyring),
            entropy=services.entropy,
            now=trio.current_time(),
            deadlines=services.deadlines,
            trace=self._trace,
        )
        self._phases: dict[str, float] = {}
        self._socket: HandshakeSocket | None = None
        self._closed = False
        self._delay = 0.0
        # At once: another request's end may otherwise unlink it.
        self._keyring: int | None = getattr(request, "keyring", None)
        if self._keyring is not None:
            services.keyring.hold(self._keyring)

    async def run(self) -> None:
        self._services.activity.request_began()
        try:
            await self._carry_out(await self._start())
        except trio.Cancelled:
            await self._give_up(self._interrupted(Interruption.SHUTDOWN))
            raise
        except Exception as error:
            await self._recover(error)
        finally:
            self._close()
            self._log_outcome()

    async def _carry_out(self, action: Action) -> None:
        while not isinstance(action, CloseSocket):
            action = await self._perform(action)
        self._close()

    async def _perform(self, action: Send | Receive | InstallKeys | SendDone) -> Action:
        match action:
            case Send(last=True):
                self._running_socket().send_nowait(action.data)
                return self._session.sent()
            case Send() | Receive():
                return await self._within_deadline(partial(self._transfer, action))
            case InstallKeys(secrets=secrets):
                self._phase("handshake")
                return self._install(secrets)
            case SendDone():
                return await self._send_done(action)
            case _:
                assert_never(action)

    async def _recover(self, error: Exception) -> None:
        """Answer the consumer in spite of a defect, or of a lack of memory or descriptors."""
        failed = _failure_of(error)
        if self._session.over:
            self._session.note(failed.reason)
        else:
            await self._give_up(partial(self._session.local_failure, failed))

    async def _give_up(self, tell: Callable[[], Action]) -> None:
        """End the request early; neither cancellation nor another defect may keep DONE back."""
        with trio.CancelScope(shield=True):
            try:
                await self._carry_out(tell())
            except Exception as error:
                self._session.note(f"DONE could not be sent: {error}.")

    def _interrupted(self, by: Interruption) -> Callable[[], Action]:
        return lambda: self._session.interrupt(by, now=trio.current_time())

    # The handshake

    async def _start(self) -> Action:
        request = self._session.request.request
        if isinstance(request, InvalidRequest):
            return self._begin(None)
        sock = self._socket = HandshakeSocket(self._sockfd)
        if _wants_keys(request):
            self._services.link_keyrings()

        peer_address = sock.peer_address

        async def begin() -> Action:
            async with self._turn():
                if peer_address is not None:
                    sock.check_hung_up()
                return self._begin(peer_address)

        return await self._within_deadline(begin)

    def _begin(self, peer_address: str | None) -> Action:
        credentials = self._services.credentials()
        self._delay = float(credentials.configuration.debug.delay_done)
        return self._session.start(
            credentials, peer_address=peer_address, wall_clock=self._services.wall_clock()
        )

    def _turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for the turn to compute."""
        return self._services.turn.taken(self._session.request.next_deadline())

    async def _within_deadline(self, work: Callable[[], Awaitable[Action]]) -> Action:
        deadline = self._session.request.next_deadline()
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() if deadline is None else deadline
            try:
                return await work()
            except ConsumerHungUp:
                return self._interrupted(Interruption.CANCEL)()
        return self._interrupted(Interruption.DEADLINE)()

    async def _transfer(self, action: Send | Receive) -> Action:
        sock = self._running_socket()
        try:
            if isinstance(action, Send):
                await sock.send_all(action.data)
                return self._session.sent()
            data = await sock.receive(action.size)
        except OSError as error:
            return self._session.connection_lost(_connection_lost(error))
        if action.size <= HEADER_LENGTH:  # Nothing is computed for a header.
            return self._session.received(data)
        async with self._turn():
            sock.check_hung_up()  # Nothing is computed for a consumer that is gone.
            return self._session.received(data)

    # The end

    def _install(self, secrets: KernelSecrets) -> Action:
        sock = self._running_socket()
        behind = sock.peek(PEEK_SIZE) if self._session.looks_behind else b""
        try:
            self._services.installer.install(sock.stdlib, secrets)
        except KeysRefused as error:
            return self._session.install_refused(str(error))
        action = self._session.installed(behind=behind)
        self._phase("install")
        return action

    async def _send_done(self, command: SendDone) -> Action:
        if self._socket is not None:
            self._phases.setdefault("handshake", trio.current_time())
            self._socket.restore()
        await self._delay_done()
        answer = await self._done_answer(command)
        self._phase("done")
        if answer is None:
            return self._session.unanswered("The kernel's answer to DONE was lost.")
        return self._session.answered(answer.error, answer.text)

    async def _delay_done(self) -> None:
        """Let the consumer wait, where [debug] says so; nothing may keep DONE back, so nothing cuts it short."""
        if self._delay:
            with trio.CancelScope(shield=True):
                await trio.sleep(self._delay)

    async def _done_answer(self, command: SendDone) -> DoneAnswered | None:
        deadline = self._session.request.next_deadline()
        # The netlink side sees an exchange through, whoever is cancelled meanwhile.
        return await self._netlink.done(
            sockfd=command.sockfd,
            status=command.status,
            remote_auth=command.remote_auth,
            deadline=trio.current_time() if deadline is None else deadline + self._delay,
            trace=self._trace,
        )

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._unlink_keyring()
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._sockfd)

    def _unlink_keyring(self) -> None:
        if self._keyring is None:
            return
        try:
            self._services.keyring.release(self._keyring)
        except OSError as error:
            self._session.note(f"The keyring {self._keyring} stays linked: {error.strerror}.")

    # Telling

    def _log_outcome(self) -> None:
        self._trace(Summarized(fields=summarize(self._session, self._phases)))
        fields = log_fields(self._session, self._phases)
        self._services.activity.request_ended(fields)
        log = self._services.log
        request = self._session.request
        if request.failure is not None:
            (log.error if request.failure.cause is Cause.INTERNAL else log.warning)(
                "handshake failed", **fields
            )
        elif request.report_error is not None or self._session.notes:
            log.warning("handshake done, with a problem", **fields)
        else:
            log.info("handshake done", **fields)

    def _phase(self, name: str) -> None:
        self._phases[name] = trio.current_time()

    def _running_socket(self) -> HandshakeSocket:
        if self._socket is None:
            raise AssertionError("bytes are moved and keys installed once the socket is there")
        return self._socket


def _wants_keys(request: HandshakeRequest) -> bool:
    """Does it take keys that are in a keyring?"""
    match request:
        case ClientPsk() | ServerPsk():
            return True
        case ClientX509() | ServerX509():
            return bool(request.certificates)
        case ClientAnon():
            return False
        case _:
            assert_never(request)


def _failure_of(error: Exception) -> Failure:
    """Say what an exception at the request's boundary means."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _NO_RESOURCES):
        said = os.strerror(error.errno or 0) if isinstance(error, OSError) else "out of memory"
        return failure(Cause.NO_MEMORY, f"The agent could not go on: {said}.")
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(where.filename)}:{where.lineno}"  # noqa: PTH119 - a name, not a path
    return failure(Cause.INTERNAL, f"A defect in the agent, at {place}: {type(error).__name__}: {error}.")


def _connection_lost(error: OSError) -> str:
    said = os.strerror(error.errno) if error.errno else str(error)
    return f"The connection broke during the handshake: {said}."
