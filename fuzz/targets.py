"""One function for each decoder and each side of the engine that reads bytes from the kernel or a peer.

A target raises nothing on any input, unless an invariant is broken: only documented errors escape, failure is
sticky, whole input and single bytes give the same result, output is bounded, nothing is a defect
(`Cause.INTERNAL`).
"""

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from tests.pki import NOW, Authority

from ktls_agent.sansio.config import ConfigError, parse_tlshd_conf
from ktls_agent.sansio.ktls import CryptoInfoError, KernelSecrets, TrafficKey, unpack_crypto_info_untrusted
from ktls_agent.sansio.netlink.client import GenlClient
from ktls_agent.sansio.netlink.events import (
    Accepted,
    DoneAnswered,
    KernelError,
    NetlinkEvent,
    NothingPending,
)
from ktls_agent.sansio.netlink.spec import MulticastGroup
from ktls_agent.sansio.nvme import PskUnusable, choose_hash_untrusted
from ktls_agent.sansio.probe import look_behind_untrusted
from ktls_agent.sansio.request import parse_request_untrusted
from ktls_agent.sansio.rpc_tls import (
    MARK_LENGTH,
    RpcTlsError,
    offers_tls_untrusted,
    reply_length_untrusted,
)
from ktls_agent.sansio.status import Cause
from ktls_agent.sansio.testing.simulated_kernel import PendingRequest, SimulatedKernel
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    PSK_HASHES,
    CertificateRejected,
    ClientParameters,
    ClientPskParameters,
    HandshakeFailed,
    KeysRequested,
    PreSharedKey,
    ServerParameters,
    ServerPskParameters,
    TlsEvent,
)
from ktls_agent.sansio.tls.primitives import SUITES_BY_NAME, TAG_LENGTH, RecordKey
from ktls_agent.sansio.tls.records import MAX_PLAINTEXT
from ktls_agent.sansio.tls.tickets import ticket_waits_untrusted
from ktls_agent.sansio.tls.truststore import TrustStore
from ktls_agent.sansio.tls.verify import ClientCertificateVerifier, ServerCertificateVerifier

MAX_OUTPUT: Final = 64 * 1024
"""More than any flight of ours with these small certificates."""

_ROOT: Final = Authority("Fuzz Root")
_SERVER: Final = _ROOT.issue(("server.test",), key_type="ed25519")
_STORE: Final = TrustStore.from_pem(_ROOT.pem())
_KEYS: Final = (
    PreSharedKey(identity=b"NVMe0R01 host subsystem", secret=bytes(32), hash_name="sha256"),
    PreSharedKey(identity=b"NVMe0R02 host subsystem", secret=bytes(48), hash_name="sha384"),
)


def _entropy(count: int) -> bytes:
    return hashlib.shake_128(b"the same in every run").digest(count)


def _resolved_client() -> GenlClient:
    client = GenlClient()
    kernel = SimulatedKernel(install=lambda _: 3)
    for answer in kernel.receive_datagram(client.resolve_family().datagram):
        client.receive_datagram_untrusted(answer)
    return client


_ACCEPT: Final = _resolved_client().accept().datagram


def netlink_session(data: bytes) -> None:
    """A datagram from the kernel, while ACCEPT and DONE wait for their answers."""
    client = _resolved_client()
    client.accept()
    client.done(sockfd=3, status=0)
    events = client.receive_datagram_untrusted(data)
    for event in events:
        _parse_request(event)
    answered = [
        event.sequence
        for event in (*events, *client.answers_lost())
        if isinstance(event, Accepted | NothingPending | DoneAnswered | KernelError)
    ]
    assert len(set(answered)) == len(answered) == 2
    assert client.outstanding == 0


def _parse_request(event: NetlinkEvent) -> None:
    if isinstance(event, Accepted):
        parse_request_untrusted(event.reply)


def kernel_side(data: bytes) -> None:
    """A datagram from an agent, at a simulated kernel where one request waits and one is accepted."""
    kernel = SimulatedKernel(install=lambda _: 3)
    kernel.join_group(kernel.family.groups[MulticastGroup.TLSHD])
    kernel.post(PendingRequest(peername="server.test"))
    kernel.post(PendingRequest(peername="server.test"))
    kernel.receive_datagram(_ACCEPT)
    kernel.receive_datagram(data)
    assert len(kernel.completions) <= 2


def tlshd_conf(data: bytes) -> None:
    """A configuration file."""
    try:
        parse_tlshd_conf(data.decode(errors="surrogateescape"), source="fuzz")
    except ConfigError as error:
        assert str(error)


def crypto_info(data: bytes) -> None:
    """What an agent gave to setsockopt, at the simulated kernel."""
    try:
        unpack_crypto_info_untrusted(data)
    except CryptoInfoError as error:
        assert str(error)


def certificates(data: bytes) -> None:
    """A chain of one or two certificates, in both roles."""
    verifiers = (
        ServerCertificateVerifier(_STORE, name="server.test", now=NOW),
        ClientCertificateVerifier(_STORE, now=NOW),
    )
    for verifier in verifiers:
        for chain in ([data], [_SERVER.chain[0], data], [data, _ROOT.der()]):
            try:
                verifier.verify_untrusted(chain)
            except CertificateRejected as rejected:
                assert rejected.failure.reason
                assert rejected.failure.cause is not Cause.INTERNAL


def _client() -> TlsEngine:
    verifier = ServerCertificateVerifier(_STORE, name="server.test", now=NOW)
    parameters = ClientParameters(verifier=verifier, server_name="server.test", identity=_SERVER.identity())
    return TlsEngine(parameters, entropy=_entropy)


def _server() -> TlsEngine:
    verifier = ClientCertificateVerifier(_STORE, now=NOW)
    return TlsEngine(ServerParameters(identities=(_SERVER.identity(),), verifier=verifier), entropy=_entropy)


def _psk_client() -> TlsEngine:
    return TlsEngine(ClientPskParameters(keys=_KEYS, allow_psk_ke=True), entropy=_entropy)


def _psk_server() -> TlsEngine:
    return TlsEngine(ServerPskParameters(allow_psk_ke=True), entropy=_entropy)


def _next_event(engine: TlsEngine) -> TlsEvent | None:
    """The next event, where keys are provided as soon as they are requested."""
    event = engine.next_event()
    if not isinstance(event, KeysRequested):
        return event
    assert engine.bytes_wanted() == 0
    assert engine.data_to_send() == b""
    engine.provide_keys(_KEYS)
    return engine.next_event()


def _feed(engine: TlsEngine, data: bytes, step: int) -> tuple[TlsEvent | None, bytes]:
    engine.start()
    output, event = bytearray(engine.data_to_send()), None
    for start in range(0, len(data), step):
        engine.receive_data(data[start : start + step])
        event = event or _next_event(engine)
        output += engine.data_to_send()
    if isinstance(event, HandshakeFailed):
        assert event.failure.cause is not Cause.INTERNAL, event.failure.reason
        engine.receive_data(data)
        assert engine.next_event() is None
        assert engine.data_to_send() == b""
    assert len(output) <= MAX_OUTPUT
    return event, bytes(output)


def _engine(make: Callable[[], TlsEngine], data: bytes) -> None:
    whole = _feed(make(), data, max(len(data), 1))
    if len(data) <= 4096:
        assert whole == _feed(make(), data, 1)


def tls_client(data: bytes) -> None:
    """A server's bytes, at our client."""
    _engine(_client, data)


def tls_server(data: bytes) -> None:
    """A client's bytes, at our server."""
    _engine(_server, data)


def psk_client(data: bytes) -> None:
    """A server's bytes, at our client with pre-shared keys."""
    _engine(_psk_client, data)


def psk_server(data: bytes) -> None:
    """A client's bytes, at our server with pre-shared keys."""
    _engine(_psk_server, data)


def nvme_identity(data: bytes) -> None:
    """The name of a pre-shared key, as a peer offers it or a keyring has it, with secrets of both lengths."""
    for length in (32, 48):
        try:
            assert choose_hash_untrusted(data, bytes(length)) in PSK_HASHES
        except PskUnusable as error:
            assert str(error)


def session_ticket(data: bytes) -> None:
    """What waits in the socket behind a handshake: once as it is, once under the right key."""
    suite = SUITES_BY_NAME["AES_128_GCM"]
    key = TrafficKey(key=bytes(16), iv=bytes(12), sequence=0)
    secrets = KernelSecrets(version=0x0304, cipher=suite.ktls, tx=key, rx=key)
    ticket_waits_untrusted(data, secrets)
    inner = data[:MAX_PLAINTEXT]
    header = b"\x17\x03\x03" + (len(inner) + TAG_LENGTH).to_bytes(2)
    record = header + RecordKey(suite=suite, key=key.key, iv=key.iv).seal(inner, header)
    assert ticket_waits_untrusted(record, secrets) == (
        inner.rstrip(b"\0")[-1:] == b"\x16" and inner[:1] == b"\x04"
    )


def rpc_reply(data: bytes) -> None:
    """A server's answer to a call with AUTH_TLS: its record mark, then the reply."""
    try:
        length = reply_length_untrusted(data[:MARK_LENGTH])
        offers_tls_untrusted(data[MARK_LENGTH : MARK_LENGTH + length], 1)
    except RpcTlsError as error:
        assert str(error)


def behind_handshake(data: bytes) -> None:
    """What a server says behind its handshake, under the right key."""
    suite = SUITES_BY_NAME["AES_128_GCM"]
    key = TrafficKey(key=bytes(16), iv=bytes(12), sequence=0)
    secrets = KernelSecrets(version=0x0304, cipher=suite.ktls, tx=key, rx=key)
    look_behind_untrusted(data, secrets)
    inner = data[:MAX_PLAINTEXT]
    header = b"\x17\x03\x03" + (len(inner) + TAG_LENGTH).to_bytes(2)
    record = header + RecordKey(suite=suite, key=key.key, iv=key.iv).seal(inner, header)
    assert look_behind_untrusted(record, secrets).tickets <= len(inner)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = MappingProxyType(
    {
        target.__name__: target
        for target in (
            netlink_session,
            kernel_side,
            tlshd_conf,
            crypto_info,
            certificates,
            tls_client,
            tls_server,
            psk_client,
            psk_server,
            nvme_identity,
            session_ticket,
            rpc_reply,
            behind_handshake,
        )
    }
)
