"""Transcripts of real sessions, in memory: a session with its trace on one side, an engine or a script on the other.

    transcript = record(ClientAnon(sockfd=13, peername="server.test"), server_engine())

Times, entropy and netlink datagrams are the same in each run.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ktls_agent.sansio.capture.transcript import TimedStep, Transcript
from ktls_agent.sansio.lifecycle import CloseSocket, Deadlines, InstallKeys, SendDone
from ktls_agent.sansio.netlink.events import AcceptReply, CertificateSerials
from ktls_agent.sansio.netlink.messages import encode_accept, encode_accept_reply, encode_done, encode_error
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.policy import CLASSICAL, Credentials, RequestRefused, RoleCredentials
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
from ktls_agent.sansio.session import Action, Receive, Send, Session
from ktls_agent.sansio.status import Cause, failure
from ktls_agent.sansio.steps import Datagram, Interruption, Step, Summarized
from ktls_agent.sansio.summary import summarize
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import Identity, KeysRequested, Parameters, PreSharedKey
from tests import pki
from tests.tls.handshakes import Counter, client_identity, identity, trust

FAMILY: Final = 0x20
STEP_SECONDS: Final = 0.0002
RECORDED: Final = dt.datetime(2026, 6, 1, 12, 0, 0, tzinfo=dt.UTC)
PEER_KEY: Final = 0x1000

KINDS: Final[dict[type[HandshakeRequest], tuple[MessageType, Auth]]] = {
    ClientAnon: (MessageType.CLIENTHELLO, Auth.UNAUTH),
    ClientX509: (MessageType.CLIENTHELLO, Auth.X509),
    ClientPsk: (MessageType.CLIENTHELLO, Auth.PSK),
    ServerX509: (MessageType.SERVERHELLO, Auth.X509),
    ServerPsk: (MessageType.SERVERHELLO, Auth.PSK),
}


class Keys:
    """Keyrings in memory; a `KeySource`."""

    def __init__(
        self,
        *psks: PreSharedKey,
        identities: dict[int, Identity] | None = None,
        peer_key: int | None = PEER_KEY,
    ) -> None:
        self.psks = psks
        self.identities = identities or {}
        self.peer_key = peer_key

    def load_identity(self, pair: CertificateKeys) -> Identity:
        if pair.certificate not in self.identities:
            raise RequestRefused(failure(Cause.KEY_UNREADABLE, f"There is no key {pair.certificate}."))
        return self.identities[pair.certificate]

    def load_psk(self, serial: int) -> PreSharedKey:
        for key in self.psks:
            if key.serial == serial:
                return key
        raise RequestRefused(failure(Cause.PSK_UNAVAILABLE, f"There is no key {serial}."))

    def look_up(
        self, identities: Sequence[bytes], *, only: Sequence[int]
    ) -> tuple[tuple[PreSharedKey, ...], tuple[str, ...]]:
        return tuple(key for key in self.psks if key.identity in identities), ()

    def add_certificate(self, description: str, der: bytes) -> int | None:
        return self.peer_key


def credentials(*, own: bool = True) -> Credentials:
    """What `tests.tls.handshakes` has, for both roles."""
    return Credentials(
        key_exchange=CLASSICAL,
        client=RoleCredentials(trust=trust(), identity=client_identity() if own else None),
        server=RoleCredentials(trust=trust(), identity=identity() if own else None),
    )


def started(parameters: Parameters) -> TlsEngine:
    """An engine of any parameters that has been started."""
    engine = TlsEngine(parameters, entropy=Counter(b"peer"))
    engine.start()
    return engine


Peer = Callable[[bytes], bytes]
"""Takes what it is sent, and says what it sends; nothing at all is the end of file."""


def engine_peer(engine: TlsEngine, *psks: PreSharedKey) -> Peer:
    """An engine that was started, as a peer that closes when it is done."""

    def answer(data: bytes) -> bytes:
        if data:
            engine.receive_data(data)
        if isinstance(engine.next_event(), KeysRequested):
            engine.provide_keys(psks)
        return engine.data_to_send()

    return answer


def script(*answers: bytes) -> Peer:
    """A peer that says what it was told to say, whatever it hears."""
    rest = list(answers)
    return lambda _: rest.pop(0) if rest else b""


@dataclass(kw_only=True)
class Recorder:
    """Runs a session against a peer, and keeps its steps.

    Attributes:
        peer: The other side.
        interruption: What comes instead of the peer's bytes, and when: before the n-th receive.
        refusal: Why the kernel refuses the keys.
        done_error: What the kernel answers DONE with; None for no answer.
        datagrams: Are the netlink datagrams kept?
    """

    peer: Peer
    interruption: tuple[int, Interruption] | None = None
    refusal: str | None = None
    done_error: int | None = 0
    behind: bytes = b""
    datagrams: bool = True
    steps: list[TimedStep] = field(default_factory=list)
    inbox: bytearray = field(default_factory=bytearray)
    receives: int = 0

    @property
    def now(self) -> float:
        return len(self.steps) * STEP_SECONDS

    def trace(self, step: Step) -> None:
        self.steps.append(TimedStep(at=round(self.now, 6), step=step))

    def datagram(self, data: bytes, *, outgoing: bool) -> None:
        if self.datagrams:
            self.trace(Datagram(outgoing=outgoing, data=data))

    def run(
        self,
        request: HandshakeRequest | InvalidRequest,
        own: Credentials,
        keys: Keys,
        *,
        address: str | None = "192.0.2.7",
        wall_clock: dt.datetime = pki.NOW,
    ) -> Transcript:
        self.accept(request)
        session = Session(
            request,
            keys=keys,
            entropy=Counter(b"agent"),
            now=self.now,
            deadlines=Deadlines(),
            trace=self.trace,
        )
        action = session.start(own, peer_address=address, wall_clock=wall_clock)
        phases: dict[str, float] = {}
        while not isinstance(action, CloseSocket):
            if isinstance(action, InstallKeys | SendDone):
                phases.setdefault("handshake", self.now)
            action = self.answer(session, action)
        phases["done"] = self.now
        self.trace(Summarized(fields=summarize(session, phases)))
        return Transcript(agent="0.1.0", recorded=RECORDED, secrets=True, steps=tuple(self.steps))

    def accept(self, request: HandshakeRequest | InvalidRequest) -> None:
        self.datagram(encode_accept(family_id=FAMILY, sequence=3), outgoing=True)
        reply = AcceptReply(sockfd=request.sockfd)
        if not isinstance(request, InvalidRequest):
            message_type, auth = KINDS[type(request)]
            certificates = getattr(request, "certificates", ())
            reply = AcceptReply(
                sockfd=request.sockfd,
                message_type=message_type,
                auth_mode=auth,
                peername=request.peername,
                timeout_ms=None if request.timeout is None else int(request.timeout * 1000),
                keyring=request.keyring,
                peer_identities=getattr(request, "peer_identities", ()),
                certificates=tuple(
                    CertificateSerials(certificate=pair.certificate, private_key=pair.private_key)
                    for pair in certificates
                ),
            )
        self.datagram(encode_accept_reply(reply, family_id=FAMILY, sequence=3), outgoing=False)

    def answer(self, session: Session, action: Action) -> Action:
        match action:
            case Send(data=data):
                self.inbox += self.peer(data)
                return session.sent()
            case Receive(size=size):
                return self.receive(session, size)
            case InstallKeys() if self.refusal is not None:
                return session.install_refused(self.refusal)
            case InstallKeys():
                return session.installed(behind=self.behind)
            case SendDone():
                return self.done(session, action)
            case _:
                raise AssertionError(action)

    def receive(self, session: Session, size: int) -> Action:
        self.receives += 1
        if self.interruption is not None and self.interruption[0] == self.receives:
            deadline = session.request.next_deadline()
            return session.interrupt(self.interruption[1], now=deadline or 0)
        if not self.inbox:
            self.inbox += self.peer(b"")
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        return session.received(data)

    def done(self, session: Session, command: SendDone) -> Action:
        asked = encode_done(
            family_id=FAMILY,
            sequence=4,
            status=command.status,
            sockfd=command.sockfd,
            remote_auth=command.remote_auth,
        )
        self.datagram(asked, outgoing=True)
        if self.done_error is None:
            return session.unanswered("The kernel's answer to DONE was lost.")
        self.datagram(encode_error(request=asked, error=self.done_error), outgoing=False)
        return session.answered(self.done_error)


def record(
    request: HandshakeRequest | InvalidRequest,
    peer: Peer,
    *,
    own: Credentials | None = None,
    keys: Keys | None = None,
    wall_clock: dt.datetime = pki.NOW,
    **changes: object,
) -> Transcript:
    """Run one request and return its transcript."""
    recorder = Recorder(peer=peer, **changes)  # type: ignore[arg-type]
    return recorder.run(request, own or credentials(), keys or Keys(), wall_clock=wall_clock)


def of_steps(*steps: Step) -> Transcript:
    """A transcript that is made up, a millisecond for each step."""
    timed = tuple(TimedStep(at=position / 1000, step=step) for position, step in enumerate(steps))
    return Transcript(agent="0.1.0", recorded=RECORDED, secrets=False, steps=timed)


def psk(
    identity: bytes = b"NVMe0R01 nqn.host nqn.subsystem", serial: int = 0x2000, secret: bytes = bytes(32)
) -> PreSharedKey:
    return PreSharedKey(identity=identity, secret=secret, hash_name="sha256", serial=serial)
