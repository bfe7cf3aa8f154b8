"""One request from ACCEPT to its descriptor's end, without I/O: lifecycle, policy and engine as one.

    session = Session(request, keys=keys, entropy=os.urandom, now=now)
    action = session.start(credentials, peer_address="192.0.2.1", wall_clock=dt.datetime.now(dt.UTC))
    while not isinstance(action, CloseSocket):
        match action:
            case Send(): action = session.sent()                      # when the bytes are out
            case Receive(): action = session.received(sock.recv(action.size))
            case InstallKeys(): action = session.installed()          # or install_refused
            case SendDone(): action = session.answered(error, text)   # or unanswered

Each action is answered by one call, which gives the next action.  What comes from outside at any time (`interrupt`,
`local_failure`, `connection_lost`) gives the next action as well; the one before is then void.  Everything that goes in
and comes out is told to the trace, so that a transcript of it can be run again: see `capture.replay`.
"""

import datetime as dt
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, assert_never

from cryptography.x509 import Certificate

from .ktls import TLS_RX, TLS_TX, KernelSecrets, pack_crypto_info
from .lifecycle import (
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
from .policy import CLASSICAL, Credentials, RequestRefused, RoleCredentials, choose_parameters
from .request import CertificateKeys, ClientPsk, HandshakeRequest, InvalidRequest, ServerPsk, ServerX509
from .status import Alert, Cause, Failure, failure
from .steps import (
    Answered,
    Closed,
    Completed,
    Configured,
    Drew,
    Exported,
    Failed,
    FoundPsk,
    IdentityLoaded,
    Installed,
    Interrupted,
    Interruption,
    LocallyFailed,
    Noted,
    PeerKeyMade,
    PskLoaded,
    PsksLookedUp,
    Received,
    Reported,
    RevocationChecked,
    Sent,
    Started,
    Trace,
    no_trace,
)
from .tls.diagnosis import Case
from .tls.engine import TlsEngine
from .tls.parameters import (
    ClientParameters,
    ClientPskParameters,
    Entropy,
    HandshakeCompleted,
    HandshakeFailed,
    Identity,
    KeysRequested,
    Parameters,
    PeerCertificate,
    PreSharedKey,
    ServerParameters,
    ServerPskParameters,
)
from .tls.records import plain_alert
from .tls.revocation import RevocationJudge
from .tls.tickets import ticket_waits_untrusted

AUTHENTICATED: Final = 0xFFFFFFFF
"""Stands for a peer whose certificate was verified but could not be made a key: nfsd takes any number but 0 for an
authenticated peer (net/sunrpc/svcsock.c), and some kernels have no keys of the type "asymmetric"."""

TICKET_NOTE: Final = (
    "The peer sent a session ticket; the kernel's NVMe host breaks the connection over it: turn tickets off in the "
    "peer's TLS."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send bytes to the peer.

    Attributes:
        data: The bytes.
        last: Is it an alert on the way out?  It is sent without waiting, and errors don't matter any more.
    """

    data: bytes = field(repr=False)
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Receive:
    """Receive from the peer.

    Attributes:
        size: How many bytes at most: the next one belongs to the kernel.
    """

    size: int


Action = Send | Receive | InstallKeys | SendDone | CloseSocket


class KeySource(Protocol):
    """The kernel's keyrings, as far as a request needs them.  Nothing here waits."""

    def load_identity(self, pair: CertificateKeys) -> Identity:
        """Read a certificate and its private key.

        Raises:
            RequestRefused: They can't be read or used.
        """
        ...

    def load_psk(self, serial: int) -> PreSharedKey:
        """Read a pre-shared key.

        Raises:
            RequestRefused: It can't be read or used.
        """
        ...

    def look_up(
        self, identities: Sequence[bytes], *, only: Sequence[int]
    ) -> tuple[tuple[PreSharedKey, ...], tuple[str, ...]]:
        """Find the keys that a client offers.

        Args:
            identities: What it offers; any bytes.
            only: The serials of the only keys to accept; empty means any that the keyrings hold.

        Returns:
            The keys, and what is wrong with those that can't be used, in sentences.
        """
        ...

    def add_certificate(self, description: str, der: bytes) -> int | None:
        """Make a key of a certificate.

        Returns:
            The key's serial; None if the kernel has no such keys.
        """
        ...


EngineMaker = Callable[[Parameters, Entropy, Trace], TlsEngine]
"""Makes the engine of a handshake: `new_engine`, but in a replay that can't compute one."""


def new_engine(parameters: Parameters, entropy: Entropy, trace: Trace) -> TlsEngine:
    """Make an engine that computes its handshake."""
    return TlsEngine(parameters, entropy=entropy, trace=trace)


class Session:
    """See the module's docstring.

    Args:
        request: What the kernel asks for.
        keys: The keyrings.
        entropy: The engine's randomness.
        now: The monotonic time of the ACCEPT, in seconds.
        deadlines: How long requests may take.
        trace: Is told each step.
        make_engine: Makes the TLS engine.

    Attributes:
        request: The request's life.
        completed: The handshake's result; None before its success.
        peer_address: The peer's address; None if it is not known.
        report: What DONE says; None before it.
        notes: Sentences about what is odd beside the outcome.
        identities: The own certificates that were chosen for the handshake; several only where the kernel named several.
    """

    def __init__(
        self,
        request: HandshakeRequest | InvalidRequest,
        *,
        keys: KeySource,
        entropy: Entropy,
        now: float,
        deadlines: Deadlines,
        trace: Trace = no_trace,
        make_engine: EngineMaker = new_engine,
    ) -> None:
        self.request: Final = Request(request, now=now, deadlines=deadlines)
        self.completed: HandshakeCompleted | None = None
        self.peer_address: str | None = None
        self.report: SendDone | None = None
        self.notes: list[str] = []
        self.identities: tuple[Identity, ...] = ()
        self._keys = keys
        self._entropy = entropy
        self._deadlines = deadlines
        self._trace = trace
        self._make_engine = make_engine
        self._engine: TlsEngine | None = None
        self._commands: deque[Command] = deque()
        self._sending = b""
        self._secrets: KernelSecrets | None = None
        self._psks: dict[bytes, PreSharedKey] = {}

    # Inputs

    def start(self, credentials: Credentials, *, peer_address: str | None, wall_clock: dt.datetime) -> Action:
        """The request's turn has come.

        Args:
            credentials: What is configured.
            peer_address: The peer's address; None if the connection is gone already.
            wall_clock: The time for which certificates have to be valid.
        """
        asked = self.request.request
        self.peer_address = peer_address
        self._trace(
            Started(
                request=asked,
                peer_address=peer_address,
                wall_clock=wall_clock,
                deadlines=self._deadlines,
            )
        )
        commands = self.request.start()
        if isinstance(asked, InvalidRequest):
            return self._obey(commands)
        return self._begin(asked, credentials, wall_clock)

    def sent(self) -> Action:
        """The bytes of `Send` are out, as far as they could be."""
        self._trace(Sent(data=self._sending))
        self._sending = b""
        if self._commands:
            return self._next()
        if self.completed is not None:
            return self._hand_over()
        return Receive(size=self._running_engine().bytes_wanted())

    def received(self, data: bytes) -> Action:
        """Bytes came from the peer, no more than asked for; b"" is the end of file."""
        self._trace(Received(data=data))
        engine = self._running_engine()
        engine.receive_data(data)
        return self._go_on(engine)

    def connection_lost(self, reason: str) -> Action:
        """The connection broke while bytes were sent or received.

        Args:
            reason: A sentence.
        """
        self._sending = b""
        return self._failed(failure(Cause.CONNECTION_LOST, reason))

    def installed(self, *, behind: bytes = b"") -> Action:
        """The socket has its keys.

        Args:
            behind: What the socket holds behind the handshake; `looks_behind` says whether it is wanted.
        """
        secrets = self._taken_secrets()
        self._trace(Installed(cipher=secrets.cipher.name, behind=behind))
        if ticket_waits_untrusted(behind, secrets):
            self.note(TICKET_NOTE)
        return self._obey(self.request.keys_installed(self._remote_auth()))

    def install_refused(self, reason: str) -> Action:
        """The kernel refused the keys.

        Args:
            reason: A sentence.
        """
        self._trace(Installed(cipher=self._taken_secrets().cipher.name, refusal=reason))
        return self._obey(self.request.install_failed(failure(Cause.KTLS_REFUSED, reason)))

    def answered(self, error: int, text: str = "") -> Action:
        """The kernel answered DONE with 0 or a positive errno."""
        self._trace(Answered(error=error, text=text))
        return self._obey(self.request.done_answered(error, text))

    def unanswered(self, reason: str) -> Action:
        """The kernel's answer to DONE was lost.

        Args:
            reason: A sentence.
        """
        self._trace(Answered(error=None, text=reason))
        return self._obey(self.request.done_unanswered(reason))

    def interrupt(self, by: Interruption, *, now: float) -> Action:
        """Something from outside ends the request; one whose DONE is made already is only closed.

        Args:
            by: What it is.
            now: The monotonic time in seconds; for `DEADLINE` not before `request.next_deadline()`.
        """
        self._trace(Interrupted(by=by, after=now - self.request.accepted_at))
        match by:
            case Interruption.CANCEL:
                return self._obey(self.request.cancel())
            case Interruption.SHUTDOWN:
                return self._obey(self.request.shutdown())
            case Interruption.DEADLINE:
                return self._obey(self.request.handle_deadline(now))
            case _:
                assert_never(by)

    def local_failure(self, failed: Failure) -> Action:
        """Something on this side went wrong before DONE: no memory, no descriptors, a defect."""
        self._trace(LocallyFailed(failure=failed))
        return self._obey(self.request.local_failure(failed))

    def note(self, text: str) -> None:
        """Remember a sentence about what is odd, for the log line."""
        self._trace(Noted(text=text))
        self.notes.append(text)

    # State

    @property
    def over(self) -> bool:
        """Has DONE been made, whether or not it has been answered?"""
        return self.request.state in (State.REPORTING, State.FINISHED)

    @property
    def looks_behind(self) -> bool:
        """Is `installed` to be told what is in the socket behind the handshake?  NVMe's host can't take a ticket."""
        return isinstance(self.request.request, ClientPsk)

    # The handshake

    def _begin(self, asked: HandshakeRequest, credentials: Credentials, now: dt.datetime) -> Action:
        self._tell_credentials(asked, credentials)
        try:
            parameters = self._choose(asked, _traced(credentials, self._trace), now)
        except RequestRefused as refused:
            return self._obey(self.request.local_failure(refused.failure))
        self.identities = _own_identities(parameters)
        engine = self._engine = self._make_engine(parameters, self._draw, self._trace)
        engine.start()
        return self._go_on(engine)

    def _tell_credentials(self, asked: HandshakeRequest, credentials: Credentials) -> None:
        if self._trace is no_trace:
            return  # It takes the anchors of a whole store apart.
        own = credentials.server if isinstance(asked, ServerX509 | ServerPsk) else credentials.client
        exchange = None if credentials.key_exchange == CLASSICAL else credentials.key_exchange
        self._trace(
            Configured(
                trust=None if own.trust is None else own.trust.anchors(),
                authorities=() if own.trust is None else own.trust.subjects,
                identity=None if own.identity is None else own.identity.chain,
                names=() if own.identity is None else own.identity.names,
                groups=None if exchange is None else exchange.groups,
                key_shares=None if exchange is None else exchange.shares(psk=isinstance(asked, ClientPsk)),
            )
        )

    def _choose(self, asked: HandshakeRequest, credentials: Credentials, now: dt.datetime) -> Parameters:
        return choose_parameters(
            asked,
            credentials,
            load_keys=self._load_identity,
            load_psk=self._load_psk,
            note=self.note,
            peer_address=self.peer_address,
            now=now,
        )

    def _go_on(self, engine: TlsEngine) -> Action:
        """Say what the engine wants."""
        event = engine.next_event()
        if isinstance(event, KeysRequested):
            self._provide_keys(engine, event.identities)
            return self._go_on(engine)
        self._sending = engine.data_to_send()
        match event:
            case HandshakeFailed(failure=failed):
                return self._failed(failed)
            case HandshakeCompleted():
                self.completed = event
                self._trace(Completed(result=event))
                return Send(data=self._sending) if self._sending else self._hand_over()
            case None:
                return Send(data=self._sending) if self._sending else Receive(size=engine.bytes_wanted())
            case _:
                assert_never(event)

    def _failed(self, failed: Failure) -> Action:
        self._trace(Failed(failure=failed))
        self._commands.extend(self.request.handshake_failed(failed))
        return Send(data=self._sending, last=True) if self._sending else self._next()

    def _hand_over(self) -> Action:
        """Take the keys for the kernel."""
        secrets = self._secrets = self._running_engine().extract_secrets()
        self._trace(
            Exported(
                cipher=secrets.cipher.name,
                tx=pack_crypto_info(secrets, TLS_TX),
                rx=pack_crypto_info(secrets, TLS_RX),
            )
        )
        return self._obey(self.request.handshake_completed(secrets))

    # Keys

    def _draw(self, size: int) -> bytes:
        data = self._entropy(size)
        self._trace(Drew(size=size, data=data))
        return data

    def _load_identity(self, pair: CertificateKeys) -> Identity:
        try:
            identity = self._keys.load_identity(pair)
        except RequestRefused as refused:
            self._trace(
                IdentityLoaded(
                    certificate=pair.certificate, private_key=pair.private_key, failure=refused.failure
                )
            )
            raise
        self._trace(
            IdentityLoaded(
                certificate=pair.certificate,
                private_key=pair.private_key,
                chain=identity.chain,
                names=identity.names,
            )
        )
        return identity

    def _load_psk(self, serial: int) -> PreSharedKey:
        try:
            key = self._keys.load_psk(serial)
        except RequestRefused as refused:
            self._trace(PskLoaded(serial=serial, failure=refused.failure))
            raise
        self._psks.setdefault(key.identity, key)
        self._trace(PskLoaded(serial=serial, found=_found(key)))
        return key

    def _provide_keys(self, engine: TlsEngine, identities: tuple[bytes, ...]) -> None:
        asked = self.request.request
        only = asked.peer_identities if isinstance(asked, ServerPsk) else ()
        keys, notes = self._keys.look_up(identities, only=only)
        self._trace(PsksLookedUp(identities=identities, found=tuple(map(_found, keys)), notes=notes))
        for text in notes:
            self.note(text)
        self._psks = {key.identity: key for key in keys}
        engine.provide_keys(keys)

    def _remote_auth(self) -> tuple[int, ...]:
        """Name the peer for the consumer: the pre-shared key that was used, or a key of the peer's certificate."""
        completed = self.completed
        if completed is None:
            raise AssertionError("keys are installed after a handshake only")
        if completed.psk_identity is not None:
            serial = self._psks[completed.psk_identity].serial
            return () if serial is None else (serial,)
        return () if completed.peer is None else (self._key_of(completed.peer),)

    def _key_of(self, peer: PeerCertificate) -> int:
        name = getattr(self.request.request, "peername", None) or self.peer_address or "unknown"
        serial = self._keys.add_certificate(f"TLS x509 {name}", peer.chain[0])
        self._trace(PeerKeyMade(serial=serial))
        return AUTHENTICATED if serial is None else serial

    # What the lifecycle commands

    def _obey(self, commands: list[Command]) -> Action:
        self._commands.extend(commands)
        return self._next()

    def _next(self) -> Action:
        if not self._commands:
            return CloseSocket(sockfd=self.request.sockfd)
        command = self._commands.popleft()
        match command:
            case InstallKeys():
                return command
            case AbortHandshake(alert=alert):
                self._sending = self._last_words(alert)
                return Send(data=self._sending, last=True) if self._sending else self._next()
            case SendDone():
                self.report = command
                self._trace(Reported(status=command.status, remote_auth=command.remote_auth))
                return command
            case CloseSocket():
                self._trace(Closed())
                return command
            case StartHandshake():
                raise AssertionError("start answers this command by itself")
            case _:
                assert_never(command)

    def _last_words(self, alert: Alert | None) -> bytes:
        failed = self.request.failure
        if alert is None or failed is None:
            return b""
        if self._engine is None:
            return plain_alert(alert)
        self._engine.abort(Failure(cause=failed.cause, reason=failed.reason, alert=alert))
        return self._engine.data_to_send()

    def _running_engine(self) -> TlsEngine:
        if self._engine is None:
            raise AssertionError("there is an engine from start on")
        return self._engine

    def _taken_secrets(self) -> KernelSecrets:
        if self._secrets is None:
            raise AssertionError("keys are installed once they are there")
        return self._secrets


class _TracedRevocation:
    """Tells what the revocation lists say."""

    def __init__(self, lists: RevocationJudge, trace: Trace) -> None:
        self._lists = lists
        self._trace = trace

    def judge(self, case: Case, path: Sequence[Certificate]) -> Failure | None:
        failed = self._lists.judge(case, path)
        self._trace(RevocationChecked(failure=failed))
        return failed


def _traced(credentials: Credentials, trace: Trace) -> Credentials:
    def role(own: RoleCredentials) -> RoleCredentials:
        return (
            own
            if own.revocation is None
            else replace(own, revocation=_TracedRevocation(own.revocation, trace))
        )

    return replace(credentials, client=role(credentials.client), server=role(credentials.server))


def _found(key: PreSharedKey) -> FoundPsk:
    return FoundPsk(serial=key.serial or 0, identity=key.identity, hash_name=key.hash_name, secret=key.secret)


def _own_identities(parameters: Parameters) -> tuple[Identity, ...]:
    match parameters:
        case ClientParameters(identity=identity):
            return () if identity is None else (identity,)
        case ServerParameters(identities=identities):
            return identities
        case ClientPskParameters() | ServerPskParameters():
            return ()
        case _:
            assert_never(parameters)
