"""What a request costs beside its handshake: netlink, policy, session, the log line."""

import datetime as dt
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ktls_agent.io_trio.log import make_logger
from ktls_agent.sansio.lifecycle import CloseSocket, Deadlines, InstallKeys, SendDone
from ktls_agent.sansio.netlink import messages, spec
from ktls_agent.sansio.netlink.client import GenlClient
from ktls_agent.sansio.netlink.events import AcceptReply, CertificateSerials, FamilyResolved
from ktls_agent.sansio.policy import Credentials, RoleCredentials, choose_parameters
from ktls_agent.sansio.request import ClientX509
from ktls_agent.sansio.session import Receive, Send, Session
from ktls_agent.sansio.summary import summarize
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import HandshakeCompleted, Parameters, ServerParameters
from tests.bench.measure import time_of
from tests.pki import NOW
from tests.test_session import NoKeys
from tests.tls.handshakes import SERVER_NAME, client_identity, client_verifier, identity, trust

_FAMILY: Final = 30
_REQUEST: Final = ClientX509(sockfd=3, peername=SERVER_NAME)
_REPLY: Final = AcceptReply(
    sockfd=7,
    message_type=spec.MessageType.CLIENTHELLO,
    timeout_ms=9_000,
    auth_mode=spec.Auth.X509,
    certificates=(CertificateSerials(certificate=101, private_key=102),),
    peername=SERVER_NAME,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a request's cost, in CPU seconds."""

    name: str
    seconds: float


def parts(*, rounds: int, times: int) -> tuple[Part, ...]:
    """Measure each of them: a round has so many times."""

    def measured(name: str, action: Callable[[], object]) -> Part:
        return Part(name=name, seconds=time_of(action, rounds=rounds, times=times))

    bare, whole = measured("engine alone", bare_engine), measured("session and engine", session)
    return (
        measured("netlink: one request, decoded and encoded", netlink()),
        measured("policy: choose_parameters", policy),
        measured("log line", log_line()),
        bare,
        whole,
    )


def netlink() -> Callable[[], object]:
    """ACCEPT out, its reply in, DONE out, its acknowledgement in."""
    client = GenlClient()
    resolving = client.resolve_family()
    family = FamilyResolved(
        family_id=_FAMILY, version=spec.FAMILY_VERSION, groups={spec.MulticastGroup.TLSHD: 9}
    )
    client.receive_datagram_untrusted(messages.encode_new_family(family, sequence=resolving.sequence))
    accept = client.accept()
    template = messages.encode_accept_reply(_REPLY, family_id=_FAMILY, sequence=accept.sequence)
    client.receive_datagram_untrusted(template)
    acknowledgement = messages.encode_error(request=client.done(sockfd=7, status=0).datagram, error=0)

    def one_request() -> None:
        # The kernel's side is made by patching the sequence number (struct nlmsghdr).
        sequence = client.accept().sequence.to_bytes(4, "little")
        assert client.receive_datagram_untrusted(template[:8] + sequence + template[12:])
        sequence = client.done(sockfd=7, status=0, remote_auth=(5,)).sequence.to_bytes(4, "little")
        assert client.receive_datagram_untrusted(acknowledgement[:8] + sequence + acknowledgement[12:])

    return one_request


def credentials() -> Credentials:
    """What an agent for mutual TLS has."""
    return Credentials(
        client=RoleCredentials(trust=trust(), identity=client_identity()),
        server=RoleCredentials(trust=trust(), identity=identity()),
    )


def policy() -> Parameters:
    """From a request to what its handshake is to do."""
    keys = NoKeys()
    return choose_parameters(
        _REQUEST,
        _CREDENTIALS,
        load_keys=keys.load_identity,
        load_psk=keys.load_psk,
        note=lambda _text: None,
        peer_address="192.0.2.1",
        now=NOW,
    )


def log_line() -> Callable[[], object]:
    """The line of a finished request, made and written."""
    done = run_session()
    logger = make_logger(to_stderr=True, debug=False, stream=io.StringIO())

    def write() -> None:
        logger.info("handshake done", **summarize(done, {"handshake": 100.1, "done": 100.2}))

    return write


def session() -> object:
    """A client's request from ACCEPT to its end, and the server in memory that it talks to."""
    return run_session()


def run_session() -> Session:
    """Answer everything that a session wants."""
    peer = _server()
    made = Session(_REQUEST, keys=NoKeys(), entropy=os.urandom, now=100.0, deadlines=Deadlines())
    action = made.start(_CREDENTIALS, peer_address="192.0.2.1", wall_clock=_WALL_CLOCK)
    waiting = b""
    while True:
        match action:
            case Send(data=data):
                peer.receive_data(data)
                waiting += peer.data_to_send()
                action = made.sent()
            case Receive(size=size):
                data, waiting = waiting[:size], waiting[size:]
                action = made.received(data)
            case InstallKeys():
                action = made.installed()
            case SendDone():
                action = made.answered(0)
            case CloseSocket():
                assert made.completed is not None, made.request.failure
                return made


def bare_engine() -> object:
    """The same handshake by the engine alone, fed in the same pieces."""
    peer, client = _server(), TlsEngine(policy(), entropy=os.urandom)
    client.start()
    waiting = b""
    while (event := client.next_event()) is None:
        if sent := client.data_to_send():
            peer.receive_data(sent)
            waiting += peer.data_to_send()
        size = client.bytes_wanted()
        data, waiting = waiting[:size], waiting[size:]
        client.receive_data(data)
    peer.receive_data(client.data_to_send())
    assert isinstance(peer.next_event(), HandshakeCompleted), "the server is done, too"
    return event, client.extract_secrets()


def _server() -> TlsEngine:
    server = TlsEngine(
        ServerParameters(identities=(identity(),), verifier=client_verifier()), entropy=os.urandom
    )
    server.start()
    return server


_CREDENTIALS: Final = credentials()
_WALL_CLOCK: Final[dt.datetime] = NOW
