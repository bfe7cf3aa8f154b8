"""One request, from ACCEPT to its descriptor's end: carries out the commands of `lifecycle.Request`.

Every decision is the lifecycle's, the policy's or the engine's; here is only what they can't do without I/O:

    StartHandshake   choose parameters, then move bytes between the socket and the engine until its event
    InstallKeys      put the keys into the socket, make a key of the peer's certificate
    AbortHandshake   let the engine say why, and send that without waiting
    SendDone         DONE, and its answer
    CloseSocket      drop the descriptor

**DONE is sent once, whatever happens.**  Cancellation from outside (the agent stops) and exceptions become inputs
of the lifecycle, which answers with SendDone; that runs in a shielded scope with the lifecycle's own deadline.  This is
the only place where `Exception` is caught: a defect in one request must neither leave its consumer waiting nor end the
others.

**One engine computes at a time.**  A step takes milliseconds, and Trio runs every task that can run before it looks at
sockets again: with ten handshakes ready to compute, a READY would wait for all ten, and the kernel's queue of a few
requests overflows meanwhile.  Taking turns (`Services.turn`), the acceptor comes in after each step.  Measured in
UML, one CPU, 32 clients at once: 26 to 113 of 300 connections turned away by the kernel instead of 152, at nearly
twice the rate.
"""

import datetime as dt
import errno
import os
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, assert_never

import trio

from ktls_agent.sansio.ktls import KernelSecrets
from ktls_agent.sansio.lifecycle import (
    AbortHandshake,
    CloseSocket,
    Command,
    Deadlines,
    InstallKeys,
    Request,
    SendDone,
    StartHandshake,
    State,
)
from ktls_agent.sansio.netlink.events import DoneAnswered
from ktls_agent.sansio.policy import Credentials, RequestRefused, choose_parameters
from ktls_agent.sansio.request import (
    CertificateKeys,
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from ktls_agent.sansio.status import Alert, Cause, Failure, failure
from ktls_agent.sansio.tls.credentials import CredentialError, load_identity_der
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    Entropy,
    HandshakeCompleted,
    HandshakeFailed,
    Identity,
    KeysRequested,
    PeerCertificate,
)
from ktls_agent.sansio.tls.records import HEADER_LENGTH, plain_alert
from ktls_agent.sansio.tls.tickets import PEEK_SIZE, ticket_waits_untrusted

from .keyring import Keyring, KeyUnreadable
from .ktls import KeyInstaller, KeysRefused
from .psk import PskSource
from .report import (
    Completed,
    Installed,
    Journal,
    Observer,
    Received,
    Reported,
    Sent,
    Started,
    Step,
    observe_nothing,
    summarize,
)
from .tcp import ConsumerHungUp, HandshakeSocket

AUTHENTICATED: Final = 0xFFFFFFFF
"""Stands for a peer whose certificate was verified but could not be made a key: nfsd takes any number but 0 for an
authenticated peer (net/sunrpc/svcsock.c), and some kernels have no keys of the type "asymmetric"."""

TICKET_NOTE: Final = (
    "The peer sent a session ticket; the kernel's NVMe host breaks the connection over it: turn tickets off in the "
    "peer's TLS."
)

_End = HandshakeCompleted | HandshakeFailed
_NO_RESOURCES: Final = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS)


class DoneSender(Protocol):
    """Reports to the kernel; `HandshakeNetlink` is one."""

    async def done(
        self, *, sockfd: int, status: int, remote_auth: tuple[int, ...], deadline: float
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
        observe: Is told each step.
        turn: Held while an engine computes.
    """

    credentials: Callable[[], Credentials]
    installer: KeyInstaller
    keyring: Keyring
    log: Log
    link_keyrings: Callable[[], object] = lambda: None
    entropy: Entropy = os.urandom
    wall_clock: Callable[[], dt.datetime] = wall_clock
    deadlines: Deadlines = field(default_factory=Deadlines)
    observe: Observer = observe_nothing
    turn: trio.Lock = field(default_factory=trio.Lock)


async def handle_request(
    request: HandshakeRequest | InvalidRequest, services: Services, netlink: DoneSender
) -> None:
    """Carry one request out; its descriptor is closed when this returns, however it ends."""
    await _Handler(request, services, netlink).run()


class _Handler:
    def __init__(
        self, request: HandshakeRequest | InvalidRequest, services: Services, netlink: DoneSender
    ) -> None:
        self._services = services
        self._netlink = netlink
        self._request = Request(request, now=trio.current_time(), deadlines=services.deadlines)
        self._journal = Journal()
        self._socket: HandshakeSocket | None = None
        self._engine: TlsEngine | None = None
        self._closed = False
        self._psks = PskSource(services.keyring, note=self._journal.notes.append)
        # At once: another request's end may otherwise unlink it.
        self._keyring: int | None = getattr(request, "keyring", None)
        if self._keyring is not None:
            services.keyring.hold(self._keyring)

    async def run(self) -> None:
        self._observe(Started(request=self._request.request))
        try:
            await self._carry_out(self._request.start())
        except trio.Cancelled:
            await self._give_up(self._request.shutdown)
            raise
        except Exception as error:
            await self._recover(error)
        finally:
            self._close()
            self._log_outcome()

    async def _carry_out(self, commands: list[Command]) -> None:
        queue = deque(commands)
        while queue:
            queue.extend(await self._carry_out_one(queue.popleft()))

    async def _carry_out_one(self, command: Command) -> list[Command]:
        match command:
            case StartHandshake(request=request):
                return await self._start(request)
            case InstallKeys(secrets=secrets):
                return self._install(secrets)
            case AbortHandshake(alert=alert):
                self._abort(alert)
                return []
            case SendDone():
                return await self._send_done(command)
            case CloseSocket():
                self._close()
                return []
            case _:
                assert_never(command)

    async def _recover(self, error: Exception) -> None:
        """Answer the consumer in spite of a defect, or of a lack of memory or descriptors."""
        failed = _failure_of(error)
        if self._request.state in (State.REPORTING, State.FINISHED):
            self._journal.notes.append(failed.reason)
        else:
            await self._give_up(partial(self._request.local_failure, failed))

    async def _give_up(self, tell: Callable[[], list[Command]]) -> None:
        """End the request early; neither cancellation nor another defect may keep DONE back."""
        with trio.CancelScope(shield=True):
            try:
                await self._carry_out(tell())
            except Exception as error:
                self._journal.notes.append(f"DONE could not be sent: {error}.")

    # The handshake

    async def _start(self, request: HandshakeRequest) -> list[Command]:
        deadline = self._request.next_deadline()
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() if deadline is None else deadline
            try:
                return self._ended(await self._handshake(request))
            except RequestRefused as refused:
                return self._request.local_failure(refused.failure)
            except ConsumerHungUp:
                return self._request.cancel()
            finally:
                self._phase("handshake")
        return self._request.handle_deadline(trio.current_time())

    def _ended(self, event: _End) -> list[Command]:
        match event:
            case HandshakeFailed(failure=failed):
                return self._request.handshake_failed(failed)
            case HandshakeCompleted():
                self._journal.completed = event
                self._observe(Completed(result=event))
                return self._request.handshake_completed(self._running_engine().extract_secrets())
            case _:
                assert_never(event)

    async def _handshake(self, request: HandshakeRequest) -> _End:
        sock = self._socket = HandshakeSocket(request.sockfd)
        self._journal.peer_address = sock.peer_address
        if _wants_keys(request):
            self._services.link_keyrings()
        parameters = choose_parameters(
            request,
            self._services.credentials(),
            load_keys=self._load_keys,
            load_psk=self._psks.load,
            note=self._journal.notes.append,
            peer_address=self._journal.peer_address,
            now=self._services.wall_clock(),
        )
        engine = self._engine = TlsEngine(parameters, entropy=self._services.entropy)
        async with self._services.turn:
            engine.start()
        try:
            return await self._pump(sock, engine)
        except OSError as error:
            return HandshakeFailed(failure=_connection_lost(error))

    async def _pump(self, sock: HandshakeSocket, engine: TlsEngine) -> _End:
        """Move bytes until the handshake is over; what the engine has to say then is sent, too."""
        while True:
            event = engine.next_event()
            output = engine.data_to_send()
            if isinstance(event, HandshakeFailed):
                self._send_last(sock, output)
                return event
            if output:
                await sock.send_all(output)
                self._observe(Sent(data=output))
            match event:
                case HandshakeCompleted():
                    return event
                case KeysRequested(identities=identities):
                    await self._provide_keys(engine, identities)
                case None:
                    await self._receive(sock, engine)
                case _:
                    assert_never(event)

    async def _receive(self, sock: HandshakeSocket, engine: TlsEngine) -> None:
        wanted = engine.bytes_wanted()
        data = await sock.receive(wanted)
        self._observe(Received(data=data))
        if wanted <= HEADER_LENGTH:  # Nothing is computed for a header.
            engine.receive_data(data)
            return
        async with self._services.turn:
            engine.receive_data(data)

    async def _provide_keys(self, engine: TlsEngine, identities: tuple[bytes, ...]) -> None:
        request = self._request.request
        only = request.peer_identities if isinstance(request, ServerPsk) else ()
        async with self._services.turn:
            engine.provide_keys(self._psks.look_up(identities, only=only))

    def _send_last(self, sock: HandshakeSocket, alert: bytes) -> None:
        if alert:
            sock.send_nowait(alert)
            self._observe(Sent(data=alert))

    def _abort(self, alert: Alert | None) -> None:
        failed = self._request.failure
        if alert is None or failed is None or self._socket is None:
            return
        if self._engine is None:
            self._send_last(self._socket, plain_alert(alert))
            return
        self._engine.abort(Failure(cause=failed.cause, reason=failed.reason, alert=alert))
        self._send_last(self._socket, self._engine.data_to_send())

    def _load_keys(self, pair: CertificateKeys) -> Identity:
        keyring = self._services.keyring
        try:
            return load_identity_der(keyring.read(pair.certificate), keyring.read(pair.private_key))
        except KeyUnreadable as error:
            raise RequestRefused(failure(Cause.KEY_UNREADABLE, str(error))) from None
        except CredentialError as error:
            reason = f"The keys {pair.certificate} and {pair.private_key} can't be used: {error}"
            raise RequestRefused(failure(Cause.KEY_UNREADABLE, reason)) from None

    # The end

    def _install(self, secrets: KernelSecrets) -> list[Command]:
        sock = self._running_socket()
        if isinstance(self._request.request, ClientPsk) and ticket_waits_untrusted(
            sock.peek(PEEK_SIZE), secrets
        ):
            self._journal.notes.append(TICKET_NOTE)
        try:
            self._services.installer.install(sock.stdlib, secrets)
        except KeysRefused as error:
            return self._request.install_failed(failure(Cause.KTLS_REFUSED, str(error)))
        self._observe(Installed(cipher=secrets.cipher.name))
        remote_auth = self._remote_auth()
        self._phase("install")
        return self._request.keys_installed(remote_auth)

    def _remote_auth(self) -> tuple[int, ...]:
        """Name the peer for the consumer: the pre-shared key that was used, or a key of the peer's certificate."""
        completed = self._journal.completed
        if completed is not None and completed.psk_identity is not None:
            return (self._psks.serial_of(completed.psk_identity),)
        if completed is None or completed.peer is None:
            return ()
        return (self._key_of(completed.peer),)

    def _key_of(self, peer: PeerCertificate) -> int:
        name = getattr(self._request.request, "peername", None) or self._journal.peer_address or "unknown"
        try:
            return self._services.keyring.add_certificate(f"TLS x509 {name}", peer.chain[0])
        except OSError as error:
            self._services.log.debug("peer key not made", peer=name, error=os.strerror(error.errno or 0))
            return AUTHENTICATED

    async def _send_done(self, command: SendDone) -> list[Command]:
        if self._socket is not None:
            self._socket.restore()
        self._journal.done_status, self._journal.remote_auth = command.status, command.remote_auth
        answer = await self._done_answer(command)
        self._phase("done")
        error = None if answer is None else answer.error
        self._observe(Reported(status=command.status, remote_auth=command.remote_auth, error=error))
        if answer is None:
            return self._request.done_unanswered("The kernel's answer to DONE was lost.")
        return self._request.done_answered(answer.error, answer.text)

    async def _done_answer(self, command: SendDone) -> DoneAnswered | None:
        deadline = self._request.next_deadline()
        # The netlink side sees an exchange through, whoever is cancelled meanwhile.
        return await self._netlink.done(
            sockfd=command.sockfd,
            status=command.status,
            remote_auth=command.remote_auth,
            deadline=trio.current_time() if deadline is None else deadline,
        )

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._unlink_keyring()
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._request.sockfd)

    def _unlink_keyring(self) -> None:
        if self._keyring is None:
            return
        try:
            self._services.keyring.release(self._keyring)
        except OSError as error:
            self._journal.notes.append(f"The keyring {self._keyring} stays linked: {error.strerror}.")

    # Telling

    def _log_outcome(self) -> None:
        fields = summarize(self._request, self._journal)
        log = self._services.log
        failed = self._request.failure
        if failed is not None:
            (log.error if failed.cause is Cause.INTERNAL else log.warning)("handshake failed", **fields)
        elif self._request.report_error is not None or self._journal.notes:
            log.warning("handshake done, with a problem", **fields)
        else:
            log.info("handshake done", **fields)

    def _observe(self, step: Step) -> None:
        self._services.observe(self._request.sockfd, trio.current_time(), step)

    def _phase(self, name: str) -> None:
        self._journal.phases[name] = trio.current_time()

    def _running_socket(self) -> HandshakeSocket:
        if self._socket is None:
            raise AssertionError("keys are installed after a handshake only")
        return self._socket

    def _running_engine(self) -> TlsEngine:
        if self._engine is None:
            raise AssertionError("secrets come from a handshake only")
        return self._engine


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


def _connection_lost(error: OSError) -> Failure:
    said = os.strerror(error.errno) if error.errno else str(error)
    return failure(Cause.CONNECTION_LOST, f"The connection broke during the handshake: {said}.")
