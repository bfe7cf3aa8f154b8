"""What RFC 8446 has an endpoint refuse, with the alert that it names: each row is one thing wrong in one message."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls import checks
from ktls_agent.sansio.tls.parameters import HandshakeCompleted, HandshakeFailed
from ktls_agent.sansio.tls.records import MAX_EARLY_DATA
from tests.peers import messages
from tests.peers.adversary import (
    ClientAdversary,
    Protection,
    ServerAdversary,
    Verdict,
    after,
    before,
    does,
    instead,
    sends_raw,
    swapped,
    twice,
    without,
)
from tests.peers.messages import MessageType, ServerHello, Type, vector
from tests.tls.handshakes import (
    authority,
    client_engine,
    client_identity,
    client_parameters,
    identity,
    mutual_client,
    mutual_server,
    server_engine,
    server_parameters,
)

X25519, P256, P384 = 29, 23, 24


def assert_refused(verdict: Verdict, alert: Alert, protection: Protection, *words: str) -> None:
    assert isinstance(verdict.event, HandshakeFailed), verdict
    assert verdict.event.failure.cause is not Cause.INTERNAL, verdict.reason
    assert (verdict.alert, verdict.protection) == (alert, protection), verdict.reason
    for word in words:
        assert word in verdict.reason


# ClientHello


def with_extension(kind: int, content: bytes | None) -> Callable[[ClientAdversary], None]:
    return lambda peer: peer.set_extension(kind, content)


def with_field(name: str, value: Any) -> Callable[[ClientAdversary], None]:
    return lambda peer: setattr(peer, "hello", replace(peer.hello, **{name: value}))


def with_added(*extensions: messages.Extension) -> Callable[[ClientAdversary], None]:
    return lambda peer: peer.hello.extensions.extend(extensions)


def with_shares(*groups: int, offered: Sequence[int] = (X25519,)) -> Callable[[ClientAdversary], None]:
    def change(peer: ClientAdversary) -> None:
        peer.set_extension(*messages.supported_groups(*offered))
        peer.set_extension(*messages.client_shares(*((group, peer.share) for group in groups)))

    return change


def psk_first(peer: ClientAdversary) -> None:
    peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, b"\x01\x01")
    peer.hello.extensions.insert(0, messages.psk_offer([b"ticket"], [bytes(32)]))


def with_psk(
    identities: Sequence[bytes] = (b"ticket",),
    binders: Sequence[bytes] = (bytes(32),),
    modes: bytes | None = b"\x01\x01",
) -> Callable[[ClientAdversary], None]:
    def change(peer: ClientAdversary) -> None:
        if modes is not None:
            peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, modes)
        peer.hello.extensions.append(messages.psk_offer(identities, binders))

    return change


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (with_extension(Type.SUPPORTED_VERSIONS, None), Alert.PROTOCOL_VERSION),
        (with_extension(Type.SUPPORTED_VERSIONS, b"\x02\x03\x03"), Alert.PROTOCOL_VERSION),
        (with_extension(Type.SUPPORTED_VERSIONS, b"\x02\x7f\x1c"), Alert.PROTOCOL_VERSION),
        (with_extension(Type.SUPPORTED_VERSIONS, b"\x00"), Alert.DECODE_ERROR),
        (with_field("compression", b"\x01\x00"), Alert.ILLEGAL_PARAMETER),
        (with_field("compression", b"\x01"), Alert.ILLEGAL_PARAMETER),
        (with_field("cipher_suites", [0x1399]), Alert.HANDSHAKE_FAILURE),
        (with_field("cipher_suites", []), Alert.DECODE_ERROR),
        (with_field("trailer", b"\0"), Alert.DECODE_ERROR),
        (with_added((0x7A7A, b""), (0x7A7A, b"")), Alert.ILLEGAL_PARAMETER),
        (with_added(messages.supported_groups(X25519)), Alert.ILLEGAL_PARAMETER),
        (with_added((Type.OID_FILTERS, b"\0\0")), Alert.ILLEGAL_PARAMETER),
        (with_added((Type.EARLY_DATA, b"")), Alert.ILLEGAL_PARAMETER),
        (with_added((Type.EARLY_DATA, b"\0")), Alert.DECODE_ERROR),
        (with_added((Type.POST_HANDSHAKE_AUTH, b"\0")), Alert.DECODE_ERROR),
        (with_extension(Type.SIGNATURE_ALGORITHMS, None), Alert.MISSING_EXTENSION),
        (with_extension(Type.SIGNATURE_ALGORITHMS, b"\0\0"), Alert.DECODE_ERROR),
        (with_extension(Type.SIGNATURE_ALGORITHMS, b"\0\2\4\1"), Alert.HANDSHAKE_FAILURE),
        (with_extension(Type.SUPPORTED_GROUPS, None), Alert.MISSING_EXTENSION),
        (with_extension(Type.SUPPORTED_GROUPS, b"\0\0"), Alert.DECODE_ERROR),
        (with_extension(Type.KEY_SHARE, None), Alert.MISSING_EXTENSION),
        (with_extension(Type.KEY_SHARE, b""), Alert.DECODE_ERROR),
        (with_shares(X25519, X25519), Alert.ILLEGAL_PARAMETER),
        (with_shares(P256), Alert.ILLEGAL_PARAMETER),
        (with_shares(P256, X25519, offered=(X25519, P256)), Alert.ILLEGAL_PARAMETER),
        (with_shares(*range(100, 165), offered=range(100, 165)), Alert.ILLEGAL_PARAMETER),
        (with_shares(P256, offered=(P256,)), Alert.ILLEGAL_PARAMETER),
        (with_extension(*messages.alpn()), Alert.DECODE_ERROR),
        (with_extension(*messages.alpn(b"sunrpc", b"")), Alert.DECODE_ERROR),
        (psk_first, Alert.ILLEGAL_PARAMETER),
        (with_psk(modes=None), Alert.MISSING_EXTENSION),
        (with_psk(modes=b"\0"), Alert.DECODE_ERROR),
        (with_psk(identities=()), Alert.DECODE_ERROR),
        (with_psk(binders=()), Alert.DECODE_ERROR),
        (with_psk(identities=(b"",)), Alert.DECODE_ERROR),
        (with_psk(binders=(b"",)), Alert.DECODE_ERROR),
        (with_psk(identities=(b"one", b"two")), Alert.ILLEGAL_PARAMETER),
    ],
)
def test_client_hellos_that_are_refused(change: Callable[[ClientAdversary], None], alert: Alert) -> None:
    peer = ClientAdversary(server_engine())
    change(peer)
    assert_refused(peer.run(peer.script()), alert, Protection.NONE)


@pytest.mark.parametrize(
    "change",
    [
        with_field("session_id", b""),
        with_field("cipher_suites", [0x0A0A, 0xC02B, 0x1301]),
        with_extension(Type.SUPPORTED_VERSIONS, b"\x06\x7a\x7a\x03\x03\x03\x04"),
        with_added((0x0A0A, b""), (0x1A1A, b"\0")),
        with_added((Type.POST_HANDSHAKE_AUTH, b"")),
        with_added((Type.RECORD_SIZE_LIMIT, b"\x40\x01")),
        with_added((Type.STATUS_REQUEST, b"\x01\0\0\0\0")),
        with_added((Type.PADDING, bytes(500))),
        with_added((Type.SESSION_TICKET, b"")),
        with_added((Type.EXTENDED_MASTER_SECRET, b"")),
        with_added((Type.EC_POINT_FORMATS, b"\x01\0")),
        with_added((Type.RENEGOTIATION_INFO, b"\0")),
        with_added((Type.PSK_KEY_EXCHANGE_MODES, b"\x01\x01")),
        with_added((Type.SIGNATURE_ALGORITHMS_CERT, b"\0\2\4\1")),
        with_added((Type.CERTIFICATE_AUTHORITIES, b"\0\5\0\3\x30\x01\x31")),
        with_shares(X25519, offered=(0x2A2A, P384, X25519)),
        with_psk(),
    ],
)
def test_client_hellos_that_are_taken(change: Callable[[ClientAdversary], None]) -> None:
    peer = ClientAdversary(server_engine())
    change(peer)
    assert peer.run(peer.script()).completed


# The second ClientHello


def retrying(change: Callable[[ClientAdversary], None], **changes: Any) -> tuple[ClientAdversary, Verdict]:
    """A client that is asked for another share, and changes its second hello behind the honest changes."""
    peer = ClientAdversary(server_engine(server_parameters(**changes)), share_sent=False)
    asked: list[int] = []

    def edit(data: bytes) -> bytes:
        asked.append(1)
        if len(asked) == 1:
            return data
        change(peer)
        return peer.hello.write()

    peer.alter[MessageType.CLIENT_HELLO] = edit
    return peer, peer.run(peer.script(hello_retry=True))


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (with_extension(*messages.server_name(b"other.test")), Alert.ILLEGAL_PARAMETER),
        (with_extension(Type.SERVER_NAME, None), Alert.ILLEGAL_PARAMETER),
        (with_field("random", b"R" * 32), Alert.ILLEGAL_PARAMETER),
        (with_field("session_id", b"J" * 32), Alert.ILLEGAL_PARAMETER),
        (with_field("cipher_suites", [0x1301, 0x1302]), Alert.ILLEGAL_PARAMETER),
        (with_extension(Type.COOKIE, None), Alert.MISSING_EXTENSION),
        (with_extension(Type.COOKIE, b"\0\1x"), Alert.ILLEGAL_PARAMETER),
        (with_extension(Type.KEY_SHARE, None), Alert.MISSING_EXTENSION),
        (with_extension(Type.KEY_SHARE, b"\0\0"), Alert.ILLEGAL_PARAMETER),
        (with_shares(P256, offered=(X25519,)), Alert.ILLEGAL_PARAMETER),
        (with_added((0x7A7A, b"")), Alert.ILLEGAL_PARAMETER),
        (with_added((Type.EARLY_DATA, b"")), Alert.ILLEGAL_PARAMETER),
        (with_extension(Type.SUPPORTED_VERSIONS, b"\x02\x03\x03"), Alert.PROTOCOL_VERSION),
    ],
)
def test_second_client_hellos_that_are_refused(
    change: Callable[[ClientAdversary], None], alert: Alert
) -> None:
    _, verdict = retrying(change)
    assert_refused(verdict, alert, Protection.NONE)


def test_a_second_client_hello_in_good_order() -> None:
    peer, verdict = retrying(lambda _: None)
    assert verdict.completed
    assert peer.order[:2] == [MessageType.SERVER_HELLO, MessageType.SERVER_HELLO]


# Early data, which is refused


@pytest.mark.parametrize("hello_retry", [False, True])
@pytest.mark.parametrize("records", [0, 1, 5])
def test_early_data_is_skipped(hello_retry: bool, records: int) -> None:
    peer = ClientAdversary(server_engine(), share_sent=not hello_retry)
    peer.hello.extensions.append((Type.EARLY_DATA, b""))
    with_psk()(peer)
    early = sends_raw((b"\x17\x03\x03\x01\x00" + b"e" * 256) * records)

    def drop_early_data(sender: Any) -> None:
        sender.set_extension(Type.EARLY_DATA, None)
        psk = sender.hello.extensions.pop(
            next(n for n, (kind, _) in enumerate(sender.hello.extensions) if kind == Type.PRE_SHARED_KEY)
        )
        sender.set_extension(*messages.client_shares((X25519, sender.share)))
        retry = messages.read_server_hello(sender.received[MessageType.SERVER_HELLO])
        sender.set_extension(Type.COOKIE, dict(retry.extensions)[Type.COOKIE])
        sender.hello.extensions.append(psk)

    script = after(peer.script(hello_retry=hello_retry), "client_hello", early)
    if hello_retry:
        script = before(
            script, "second_client_hello", does(lambda sender: sender.deliver()), does(drop_early_data)
        )
    verdict = peer.run(script)
    assert verdict.completed, verdict


def test_early_data_has_a_bound() -> None:
    peer = ClientAdversary(server_engine())
    peer.hello.extensions.append((Type.EARLY_DATA, b""))
    with_psk()(peer)
    early = sends_raw((b"\x17\x03\x03\x10\x00" + b"e" * 4096) * (MAX_EARLY_DATA // 4096 + 1))
    verdict = peer.run(after(peer.script(), "client_hello", early))
    assert_refused(verdict, Alert.BAD_RECORD_MAC, Protection.APPLICATION)


# ServerHello and HelloRetryRequest


def hello_with(**fields: Any) -> Callable[[ServerHello], None]:
    def change(hello: ServerHello) -> None:
        for name, value in fields.items():
            setattr(hello, name, value)

    return change


def hello_extension(kind: int, content: bytes | None) -> Callable[[ServerHello], None]:
    def change(hello: ServerHello) -> None:
        kept = [(known, old) for known, old in hello.extensions if known != kind]
        hello.extensions = kept if content is None else [*kept, (kind, content)]

    return change


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (hello_with(cipher_suite=0x1399), Alert.ILLEGAL_PARAMETER),
        (hello_with(cipher_suite=0xC02B), Alert.ILLEGAL_PARAMETER),
        (hello_with(compression=1), Alert.ILLEGAL_PARAMETER),
        (hello_with(session_id=b"other"), Alert.ILLEGAL_PARAMETER),
        (hello_with(session_id=b""), Alert.ILLEGAL_PARAMETER),
        (hello_with(version=0x0304), Alert.ILLEGAL_PARAMETER),
        (hello_with(trailer=b"\0"), Alert.DECODE_ERROR),
        (hello_extension(Type.SUPPORTED_VERSIONS, None), Alert.PROTOCOL_VERSION),
        (hello_extension(Type.SUPPORTED_VERSIONS, b"\x03\x03"), Alert.ILLEGAL_PARAMETER),
        (hello_extension(Type.SUPPORTED_VERSIONS, b"\x03\x05"), Alert.ILLEGAL_PARAMETER),
        (hello_extension(Type.KEY_SHARE, None), Alert.MISSING_EXTENSION),
        (hello_extension(Type.KEY_SHARE, b""), Alert.DECODE_ERROR),
        (hello_extension(Type.KEY_SHARE, messages.key_share_entry(P384, b"x" * 97)), Alert.ILLEGAL_PARAMETER),
        (
            hello_extension(Type.KEY_SHARE, messages.key_share_entry(X25519, bytes(32))),
            Alert.ILLEGAL_PARAMETER,
        ),
        (
            hello_extension(Type.KEY_SHARE, messages.key_share_entry(X25519, b"x" * 31)),
            Alert.ILLEGAL_PARAMETER,
        ),
        (
            hello_extension(Type.KEY_SHARE, messages.key_share_entry(P256, b"\x04" * 65)),
            Alert.ILLEGAL_PARAMETER,
        ),
    ],
)
def test_server_hellos_that_are_refused(change: Callable[[ServerHello], None], alert: Alert) -> None:
    peer = ServerAdversary(client_engine(), identity())
    peer.change_hello = change
    assert_refused(peer.run(peer.script()), alert, Protection.NONE)


@pytest.mark.parametrize("sentinel", [b"DOWNGRD\x00", b"DOWNGRD\x01"])
def test_a_forced_downgrade_is_seen(sentinel: bytes) -> None:
    peer = ServerAdversary(client_engine(), identity())

    def change(hello: ServerHello) -> None:
        hello.random = b"r" * 24 + sentinel
        hello.extensions = []

    peer.change_hello = change
    assert_refused(peer.run(peer.script()), Alert.ILLEGAL_PARAMETER, Protection.NONE, "older version")


@pytest.mark.parametrize(
    ("extensions", "alert"),
    [
        ([], Alert.ILLEGAL_PARAMETER),
        ([(Type.KEY_SHARE, b"\0\x1d")], Alert.ILLEGAL_PARAMETER),
        ([(Type.KEY_SHARE, b"\0\x1e")], Alert.ILLEGAL_PARAMETER),
        ([(Type.KEY_SHARE, b"\0")], Alert.DECODE_ERROR),
        ([(Type.KEY_SHARE, b"\0\x18"), (Type.KEY_SHARE, b"\0\x18")], Alert.ILLEGAL_PARAMETER),
        ([(Type.KEY_SHARE, b"\0\x18"), (0x7A7A, b"")], Alert.UNSUPPORTED_EXTENSION),
        ([(Type.KEY_SHARE, b"\0\x18"), (Type.ALPN, b"\0\2\1a")], Alert.ILLEGAL_PARAMETER),
    ],
)
def test_hello_retry_requests_that_are_refused(extensions: list[messages.Extension], alert: Alert) -> None:
    peer = ServerAdversary(client_engine(), identity(), group="secp384r1")
    peer.hello_retry_extensions = extensions
    assert_refused(peer.run(peer.script(hello_retry=True)), alert, Protection.NONE)


@pytest.mark.parametrize(
    "change",
    [
        hello_with(cipher_suite=0x1302),
        hello_extension(Type.KEY_SHARE, messages.key_share_entry(X25519, b"x" * 32)),
    ],
    ids=["another suite", "another group"],
)
def test_a_server_hello_has_to_keep_to_the_hello_retry_request(change: Callable[[ServerHello], None]) -> None:
    peer = ServerAdversary(client_engine(), identity(), group="secp384r1")

    def changed(hello: ServerHello) -> None:
        if hello.random != messages.HELLO_RETRY_RANDOM:
            change(hello)

    peer.change_hello = changed
    assert_refused(peer.run(peer.script(hello_retry=True)), Alert.ILLEGAL_PARAMETER, Protection.NONE)


# CertificateRequest and Certificate


@pytest.mark.parametrize(
    ("extensions", "context", "alert"),
    [
        ([messages.signature_algorithms(0x0403)], b"c", Alert.ILLEGAL_PARAMETER),
        ([], b"", Alert.MISSING_EXTENSION),
        ([messages.signature_algorithms()], b"", Alert.DECODE_ERROR),
        ([messages.signature_algorithms(0x0403)] * 2, b"", Alert.ILLEGAL_PARAMETER),
        ([messages.signature_algorithms(0x0403), (Type.KEY_SHARE, b"")], b"", Alert.ILLEGAL_PARAMETER),
    ],
)
def test_certificate_requests_that_are_refused(
    extensions: list[messages.Extension], context: bytes, alert: Alert
) -> None:
    peer = ServerAdversary(client_engine(mutual_client()), identity())
    request = messages.certificate_request(extensions, context=context)
    script = instead(
        peer.script(client_certificate=True),
        "certificate_request",
        does(lambda sender: sender.message(request)),
    )
    assert_refused(peer.run(script), alert, Protection.HANDSHAKE)


@pytest.mark.parametrize(
    "extension",
    [(0x7A7A, b"x"), (Type.CERTIFICATE_AUTHORITIES, b"\0\5\0\3\x30\x01\x31"), (Type.OID_FILTERS, b"\0\0")],
)
def test_certificate_requests_with_more_than_we_know_are_answered(extension: messages.Extension) -> None:
    peer = ServerAdversary(client_engine(mutual_client()), identity())
    peer.request_extensions.append(extension)
    assert peer.run(peer.script(client_certificate=True)).completed
    assert MessageType.CERTIFICATE_VERIFY in peer.received


def certificate_of(role: str, body: Callable[[Sequence[bytes]], bytes]) -> Verdict:
    if role == "client":
        server = ServerAdversary(client_engine(), identity())
        data = body(server.chain)
        script = server.script()
        return server.run(instead(script, "certificate", does(lambda sender: sender.message(data))))
    client = ClientAdversary(server_engine(mutual_server()), client_identity())
    data = body(client.chain)
    script = client.script(certificate=True)
    return client.run(instead(script, "certificate", does(lambda sender: sender.message(data))))


@pytest.mark.parametrize(
    ("role", "protection"), [("client", Protection.HANDSHAKE), ("server", Protection.APPLICATION)]
)
@pytest.mark.parametrize(
    ("body", "alert"),
    [
        (lambda chain: messages.certificate(chain, context=b"c"), Alert.ILLEGAL_PARAMETER),
        (lambda _: messages.certificate([b""]), Alert.DECODE_ERROR),
        (lambda chain: messages.certificate([*chain, b""]), Alert.DECODE_ERROR),
        (lambda _: messages.certificate([b"no certificate"]), Alert.BAD_CERTIFICATE),
        (lambda chain: messages.certificate([*chain] * 200), Alert.BAD_CERTIFICATE),
        (lambda chain: messages.certificate([*chain] * 20), Alert.BAD_CERTIFICATE),
        (lambda chain: messages.certificate(chain) + b"", None),
        (lambda _: messages.message(11, b"\0" + vector(b"\0", 3)), Alert.DECODE_ERROR),
    ],
)
def test_certificates_that_are_refused(
    role: str, protection: Protection, body: Callable[[Sequence[bytes]], bytes], alert: Alert | None
) -> None:
    verdict = certificate_of(role, body)
    if alert is None:
        assert verdict.completed
    else:
        assert_refused(verdict, alert, protection)


def test_a_server_has_to_present_a_certificate() -> None:
    verdict = certificate_of("client", lambda _: messages.certificate([]))
    assert_refused(verdict, Alert.DECODE_ERROR, Protection.HANDSHAKE, "no certificate")


# The order of messages


@pytest.mark.parametrize(
    "script",
    [
        lambda peer: without(peer.script(), "encrypted_extensions"),
        lambda peer: twice(peer.script(), "encrypted_extensions"),
        lambda peer: swapped(peer.script(), "encrypted_extensions", "certificate"),
        lambda peer: swapped(peer.script(), "certificate", "certificate_verify"),
        lambda peer: twice(peer.script(), "certificate"),
        lambda peer: twice(peer.script(), "certificate_verify"),
        lambda peer: without(peer.script(), "certificate_verify"),
        lambda peer: twice(peer.script(client_certificate=True), "certificate_request"),
        lambda peer: swapped(peer.script(client_certificate=True), "certificate_request", "certificate"),
    ],
)
def test_server_messages_out_of_order(script: Callable[[ServerAdversary], Any]) -> None:
    peer = ServerAdversary(client_engine(mutual_client()), identity())
    assert_refused(peer.run(script(peer)), Alert.UNEXPECTED_MESSAGE, Protection.HANDSHAKE, "was due")


@pytest.mark.parametrize(
    "script",
    [
        lambda peer: without(peer.script(certificate=True), "certificate"),
        lambda peer: without(peer.script(certificate=True), "certificate_verify"),
        lambda peer: without(peer.script(certificate=True), "certificate", "certificate_verify"),
        lambda peer: swapped(peer.script(certificate=True), "certificate", "certificate_verify"),
        lambda peer: twice(peer.script(certificate=True), "certificate"),
        lambda peer: twice(peer.script(certificate=True), "certificate_verify"),
        lambda peer: swapped(peer.script(certificate=True), "certificate_verify", "finished"),
    ],
)
def test_client_messages_out_of_order(script: Callable[[ClientAdversary], Any]) -> None:
    peer = ClientAdversary(server_engine(mutual_server()), client_identity())
    assert_refused(peer.run(script(peer)), Alert.UNEXPECTED_MESSAGE, Protection.APPLICATION, "was due")


def test_an_unasked_client_certificate_is_refused() -> None:
    peer = ClientAdversary(server_engine(), client_identity())
    verdict = peer.run(peer.script(certificate=True))
    assert_refused(verdict, Alert.UNEXPECTED_MESSAGE, Protection.APPLICATION)


def test_a_second_client_hello_nobody_asked_for_is_refused() -> None:
    peer = ClientAdversary(server_engine())
    again = does(lambda sender: sender.message(peer.hello.write(), in_transcript=False))
    verdict = peer.run(after(peer.script(), "client_hello", again))
    assert_refused(verdict, Alert.UNEXPECTED_MESSAGE, Protection.APPLICATION, "unprotected record")


def test_a_server_hello_is_no_client_hello() -> None:
    peer = ClientAdversary(server_engine())
    hello = ServerHello(random=bytes(32), cipher_suite=0x1301)
    verdict = peer.run([does(lambda sender: sender.message(hello.write()))])
    assert_refused(
        verdict, Alert.UNEXPECTED_MESSAGE, Protection.NONE, "ServerHello came where ClientHello was due"
    )


# Small decisions


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"), [([1, 2], [2, 1], 1), ([3, 2], [1, 2], 2), ([1], [1], 1)]
)
def test_our_order_of_suites_counts(ours: list[int], theirs: list[int], chosen: int) -> None:
    assert checks.choose_suite(ours, theirs) == chosen


@pytest.mark.parametrize("name", ["a" * 254 + ".test", "-a.test", "a..b\n", "a b", "a/b"])
def test_names_that_are_none(name: str) -> None:
    peer = ClientAdversary(server_engine())
    peer.set_extension(*messages.server_name(name.encode()))
    assert_refused(peer.run(peer.script()), Alert.ILLEGAL_PARAMETER, Protection.NONE, "host name")


def test_the_longest_name_is_taken() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    peer = ClientAdversary(server_engine())
    peer.set_extension(*messages.server_name(name.encode()))
    verdict = peer.run(peer.script())
    assert isinstance(verdict.event, HandshakeCompleted)
    assert verdict.event.server_name == name


def test_a_client_without_protocols_is_not_asked_for_one() -> None:
    peer = ServerAdversary(client_engine(client_parameters(alpn=())), identity())
    assert peer.run(peer.script()).completed


def test_an_intermediate_is_verified_with_its_chain() -> None:
    leaf = authority().subordinate().issue().identity()
    peer = ServerAdversary(client_engine(), leaf)
    assert peer.run(peer.script()).completed
    peer = ServerAdversary(client_engine(), leaf)
    peer.chain = leaf.chain[:1]
    assert_refused(peer.run(peer.script()), Alert.UNKNOWN_CA, Protection.HANDSHAKE)
