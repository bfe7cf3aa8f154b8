"""The engine's contract: its calls and their order, what it negotiates, what it sends, how it ends."""

from collections.abc import Callable, Iterator
from itertools import cycle, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.sansio.ktls import KernelSecrets, KtlsCipher
from ktls_agent.sansio.status import OUTCOMES, Alert, Cause, Failure, failure
from ktls_agent.sansio.testing.pair import ConnectionPair, Link
from ktls_agent.sansio.tls.engine import MAX_TRAILING_DATA, LocalProtocolError, TlsEngine
from ktls_agent.sansio.tls.parameters import (
    CIPHER_SUITES,
    GROUPS,
    ClientParameters,
    HandshakeCompleted,
    HandshakeFailed,
    ServerParameters,
)
from ktls_agent.sansio.tls.primitives import GROUPS_BY_NAME, SUITES_BY_NAME
from ktls_agent.sansio.tls.verify import ClientCertificateVerifier, ServerCertificateVerifier, TrustStore
from tests import pki
from tests.peers import messages
from tests.peers.adversary import ClientAdversary, Protection, ServerAdversary
from tests.peers.messages import MessageType, Type
from tests.pki import KeyType
from tests.tls.handshakes import (
    BYTE_BY_BYTE,
    KEY_TYPES,
    SERVER_NAME,
    Counter,
    authority,
    client_engine,
    client_identity,
    client_parameters,
    client_verifier,
    identity,
    issued,
    mutual_client,
    mutual_server,
    secrets_of,
    server_engine,
    server_parameters,
    server_verifier,
    shake_hands,
    trust,
)

KTLS = {
    "AES_256_GCM": KtlsCipher.AES_GCM_256,
    "CHACHA20_POLY1305": KtlsCipher.CHACHA20_POLY1305,
    "AES_128_GCM": KtlsCipher.AES_GCM_128,
    "AES_128_CCM": KtlsCipher.AES_CCM_128,
}
ROLES = ["client", "server"]


def idle(role: str) -> TlsEngine:
    parameters = client_parameters() if role == "client" else server_parameters()
    return TlsEngine(parameters, entropy=Counter())


def started(role: str) -> TlsEngine:
    return client_engine() if role == "client" else server_engine()


def completed(role: str) -> TlsEngine:
    pair = shake_hands()
    return pair.client.engine if role == "client" else pair.server.engine


def failed(role: str) -> TlsEngine:
    engine = started(role)
    engine.receive_data(b"GET / HTTP/1.0\r\n\r\n")
    return engine


def ending(engine: TlsEngine) -> Failure:
    event = engine.next_event()
    assert isinstance(event, HandshakeFailed), event
    return event.failure


def assert_keys_match(pair: ConnectionPair) -> KernelSecrets:
    client, server = secrets_of(pair)
    assert (client.tx, client.rx) == (server.rx, server.tx)
    assert (client.cipher, client.version) == (server.cipher, server.version)
    assert client.tx != client.rx
    return client


# The calls and their order


@pytest.mark.parametrize("role", ROLES)
def test_start_is_called_once(role: str) -> None:
    engine = started(role)
    with pytest.raises(LocalProtocolError, match="started before"):
        engine.start()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("data", [b"", b"\x16"])
def test_input_before_start_is_the_callers_mistake(role: str, data: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="not started"):
        idle(role).receive_data(data)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("make", "state"),
    [(idle, "idle"), (started, "handshaking"), (failed, "failed")],
    ids=["idle", "started", "failed"],
)
def test_there_are_no_secrets_before_the_handshake_is_complete(
    role: str, make: Callable[[str], TlsEngine], state: str
) -> None:
    with pytest.raises(LocalProtocolError, match=state):
        make(role).extract_secrets()


@pytest.mark.parametrize("role", ROLES)
def test_secrets_are_extracted_once(role: str) -> None:
    engine = completed(role)
    engine.extract_secrets()
    with pytest.raises(LocalProtocolError, match="extracted"):
        engine.extract_secrets()


def test_secrets_wait_until_the_last_flight_was_taken() -> None:
    client, server = client_engine(), server_engine()
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    assert isinstance(client.next_event(), HandshakeCompleted)
    with pytest.raises(LocalProtocolError, match="data_to_send"):
        client.extract_secrets()
    assert client.data_to_send()
    assert client.extract_secrets().version == 0x0304


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("make", [idle, completed, failed])
def test_nothing_is_wanted_before_the_start_and_after_the_end(
    role: str, make: Callable[[str], TlsEngine]
) -> None:
    assert make(role).bytes_wanted() == 0


def test_an_engine_that_has_not_ended_has_no_event() -> None:
    assert started("client").next_event() is None
    assert started("server").next_event() is None
    assert idle("client").next_event() is None


def test_the_client_speaks_first() -> None:
    client, server = started("client"), started("server")
    assert client.data_to_send()[0] == 22
    assert client.data_to_send() == b""
    assert server.data_to_send() == b""
    assert client.bytes_wanted() == server.bytes_wanted() == 5


def test_events_are_told_once() -> None:
    pair = shake_hands()
    assert pair.client.completed
    assert pair.server.completed
    assert pair.client.engine.next_event() is None


# Failure is sticky


@pytest.mark.parametrize("role", ROLES)
def test_end_of_file_ends_the_handshake_without_an_alert(role: str) -> None:
    engine = started(role)
    engine.data_to_send()
    engine.receive_data(b"")
    assert ending(engine).cause is Cause.END_OF_FILE
    assert engine.data_to_send() == b""


@pytest.mark.parametrize("role", ROLES)
def test_a_failed_engine_ignores_what_comes_later(role: str) -> None:
    engine = failed(role)
    assert ending(engine).alert is Alert.UNEXPECTED_MESSAGE
    engine.data_to_send()
    for data in (b"\x16\x03\x03", b"", b"x" * 100_000):
        engine.receive_data(data)
    engine.abort(failure(Cause.TIMED_OUT, "too late"))
    assert engine.next_event() is None
    assert engine.data_to_send() == b""
    assert engine.bytes_wanted() == 0


def test_a_failed_engine_keeps_nothing_of_what_comes_later() -> None:
    engine = failed("server")
    engine.trailing_data()
    for _ in range(100):
        engine.receive_data(b"x" * 1000)
    assert engine.trailing_data() == b""


@pytest.mark.parametrize("role", ROLES)
def test_the_alert_of_a_failure_stays_readable(role: str) -> None:
    engine = started(role)
    engine.data_to_send()
    engine.receive_data(b"\x17\x03\x03\x00\x01\x00" * 3)
    assert engine.data_to_send()[-7:] == bytes([21, 3, 3, 0, 2, 2, Alert.UNEXPECTED_MESSAGE]) or (
        role == "server"
    )
    assert ending(engine).alert is Alert.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("cause", "level"),
    [
        (Cause.TIMED_OUT, 1),
        (Cause.SHUTDOWN, 1),
        (Cause.NO_CREDENTIALS, 2),
        (Cause.CANCELLED, None),
        (Cause.CONNECTION_LOST, None),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_abort_sends_the_alert_of_its_cause(role: str, cause: Cause, level: int | None) -> None:
    engine = started(role)
    engine.data_to_send()
    engine.abort(failure(cause, "a reason"))
    alert = OUTCOMES[cause].alert
    assert engine.data_to_send()[5:] == (b"" if alert is None else bytes([level or 0, alert]))
    assert ending(engine) == Failure(cause=cause, reason="a reason", alert=alert)


def test_abort_is_possible_before_the_start() -> None:
    engine = idle("server")
    engine.abort(failure(Cause.NO_CREDENTIALS, "no certificate"))
    assert engine.data_to_send() == bytes([21, 3, 3, 0, 2, 2, Alert.HANDSHAKE_FAILURE])
    assert ending(engine).cause is Cause.NO_CREDENTIALS
    with pytest.raises(LocalProtocolError):
        engine.start()


@pytest.mark.parametrize("role", ROLES)
def test_abort_leaves_a_complete_handshake_alone(role: str) -> None:
    engine = completed(role)
    engine.abort(failure(Cause.TIMED_OUT, "too late"))
    assert engine.data_to_send() == b""
    assert engine.next_event() is None
    assert engine.extract_secrets().version == 0x0304


def test_abort_in_the_middle_goes_out_under_the_handshake_keys() -> None:
    engine = client_engine()
    peer = ServerAdversary(engine, identity())
    peer.run(peer.script()[:4])
    engine.abort(failure(Cause.TIMED_OUT, "the server is slow"))
    peer.deliver()
    verdict = peer.verdict()
    assert (verdict.alert, verdict.level) == (Alert.USER_CANCELED, 1)
    assert verdict.protection is Protection.HANDSHAKE


@pytest.mark.parametrize("role", ROLES)
def test_a_defect_becomes_an_event_and_an_alert(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = started(role)
    engine.data_to_send()

    def breaks(_: object) -> bool:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(type(engine._connection), "step", breaks)
    engine.receive_data(b"\x16")
    failed_with = ending(engine)
    assert failed_with.cause is Cause.INTERNAL
    assert "ZeroDivisionError" in failed_with.reason
    assert engine.data_to_send()[-1] == Alert.INTERNAL_ERROR


# The bytes of a record, and not one more


def flights(*, trailing: bytes, **changes: Any) -> tuple[bytes, bytes]:
    """What a client and a server send in a whole handshake, with bytes that follow at once."""
    pair = shake_hands(mutual_client(**changes), mutual_server())
    assert pair.client.completed
    assert pair.server.completed
    return pair.client.sent + trailing, pair.server.sent + trailing


def feed_exactly(engine: TlsEngine, stream: bytes) -> int:
    """Feed as a socket would that is asked for `bytes_wanted`; return how many bytes were read."""
    at = 0
    while (wanted := engine.bytes_wanted()) and at < len(stream):
        if (at + wanted) > len(stream):
            raise AssertionError("more was wanted than the peer sent")
        engine.receive_data(stream[at : at + wanted])
        at += wanted
    return at


@pytest.mark.parametrize("groups", [GROUPS, ("secp384r1",)])
def test_nothing_behind_the_handshake_is_wanted(groups: tuple[str, ...]) -> None:
    trailing = b"\x17\x03\x03\x00\x20" + b"x" * 32
    changes: dict[str, Any] = {"groups": groups, "key_shares": groups[:1]}
    from_client, from_server = flights(trailing=trailing, **changes)

    client = client_engine(mutual_client(**changes))
    assert feed_exactly(client, from_server) == len(from_server) - len(trailing)
    assert isinstance(client.next_event(), HandshakeCompleted)
    assert client.trailing_data() == b""

    server = server_engine(mutual_server())
    assert feed_exactly(server, from_client) == len(from_client) - len(trailing)
    assert isinstance(server.next_event(), HandshakeCompleted)
    assert server.trailing_data() == b""


def test_bytes_fed_beyond_the_end_are_given_back() -> None:
    from_client, from_server = flights(trailing=b"and more")
    for engine, stream in (
        (client_engine(mutual_client()), from_server),
        (server_engine(mutual_server()), from_client),
    ):
        engine.receive_data(stream)
        assert isinstance(engine.next_event(), HandshakeCompleted)
        engine.receive_data(b", later")
        assert engine.trailing_data() == b"and more, later"
        assert engine.trailing_data() == b""


def test_a_caller_that_goes_on_feeding_after_the_end_is_stopped() -> None:
    from_client, _ = flights(trailing=b"")
    server = server_engine(mutual_server())
    server.receive_data(from_client)
    server.receive_data(bytes(MAX_TRAILING_DATA))
    with pytest.raises(LocalProtocolError, match="wants nothing now"):
        server.receive_data(b"x")


def test_trailing_data_is_empty_while_the_handshake_goes_on() -> None:
    engine = started("server")
    engine.receive_data(b"\x16\x03\x01")
    assert engine.trailing_data() == b""
    assert engine.bytes_wanted() == 2


@pytest.mark.parametrize("role", ROLES)
@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=8))
def test_bytes_wanted_never_reaches_beyond_the_record(role: str, sizes: list[int]) -> None:
    from_client, from_server = flights(trailing=b"")
    stream = from_server if role == "client" else from_client
    engine = client_engine(mutual_client()) if role == "client" else server_engine(mutual_server())
    at, turns = 0, cycle(sizes)
    while wanted := engine.bytes_wanted():
        assert wanted <= record_rest(stream, at)
        step = min(wanted, next(turns))
        engine.receive_data(stream[at : at + step])
        at += step
    assert at == len(stream)


def record_rest(stream: bytes, at: int) -> int:
    """How many bytes there are from `at` to the end of the record, or of its header, that holds it."""
    start = 0
    while (end := start + 5 + int.from_bytes(stream[start + 3 : start + 5])) <= at:
        start = end
    return (start + 5 if at < start + 5 else end) - at


# Feeding makes no difference; the same entropy gives the same bytes


def links() -> st.SearchStrategy[Link]:
    sizes = st.lists(st.integers(1, 700), min_size=1, max_size=8)
    return sizes.map(lambda chunks: Link(chunks=tuple(chunks)))


def observed(pair: ConnectionPair) -> tuple[object, ...]:
    return pair.client.sent, pair.server.sent, pair.client.event, pair.server.event, secrets_of(pair)


@pytest.mark.parametrize("key_type", [kind for kind in KEY_TYPES if not kind.startswith("rsa")])
@pytest.mark.parametrize("groups", [GROUPS, ("secp521r1",)])
def test_the_same_entropy_gives_the_same_bytes(key_type: KeyType, groups: tuple[str, ...]) -> None:
    parameters = mutual_client(key_type), mutual_server(key_type, groups=groups)
    first = observed(shake_hands(*parameters))
    assert observed(shake_hands(*parameters)) == first
    assert observed(shake_hands(*parameters, link=BYTE_BY_BYTE)) == first
    other = observed(shake_hands(*parameters, seed=b"other"))
    assert other[0] != first[0]
    assert other[4] != first[4]


@given(
    link=links(),
    key_type=st.sampled_from(["p256", "ed25519"]),
    groups=st.sampled_from([GROUPS, ("secp384r1",)]),
)
def test_how_a_stream_is_cut_makes_no_difference(
    link: Link, key_type: KeyType, groups: tuple[str, ...]
) -> None:
    parameters = mutual_client(key_type), mutual_server(key_type, groups=groups)
    assert observed(shake_hands(*parameters, link=link)) == observed(shake_hands(*parameters))


@settings(max_examples=30)
@given(link=links())
def test_how_a_failing_stream_is_cut_makes_no_difference(link: Link) -> None:
    parameters = mutual_client(), mutual_server(verifier=stranger_verifier())
    first, second = (shake_hands(*parameters, link=way) for way in (link, BYTE_BY_BYTE))
    assert first.server.failure == second.server.failure
    assert first.server.sent == second.server.sent


def test_entropy_is_drawn_for_random_session_id_and_shares_alone() -> None:
    entropy = Counter()
    engine = TlsEngine(client_parameters(), entropy=entropy)
    assert entropy.drawn == []
    engine.start()
    assert sorted(entropy.drawn) == [32, 32, 32, 32]


# What can be negotiated


@pytest.mark.parametrize(("suite", "group"), [*product(CIPHER_SUITES, GROUPS)])
def test_every_suite_and_group(suite: str, group: str) -> None:
    pair = shake_hands(client_parameters(), server_parameters(cipher_suites=(suite,), groups=(group,)))
    assert pair.client.completed.cipher_suite == pair.server.completed.cipher_suite == suite
    assert pair.client.completed.group == pair.server.completed.group == group
    assert assert_keys_match(pair).cipher is KTLS[suite]


@pytest.mark.parametrize(("ours", "theirs"), [*product(KEY_TYPES, KEY_TYPES)])
def test_every_pair_of_key_types(ours: KeyType, theirs: KeyType) -> None:
    pair = shake_hands(mutual_client(ours), mutual_server(theirs))
    peer = pair.server.completed.peer
    assert peer is not None
    assert peer.subject == "CN=client.test"
    assert pair.client.completed.peer is not None
    assert pair.client.completed.peer.names == ("DNS:server.test", "IP:127.0.0.1")
    assert_keys_match(pair)


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_secrets_say_version_cipher_and_sequence(suite: str) -> None:
    client = assert_keys_match(shake_hands(client_parameters(cipher_suites=(suite,))))
    assert client.version == 0x0304
    assert client.tx.sequence == client.rx.sequence == 0
    assert len(client.tx.key) == SUITES_BY_NAME[suite].key_length
    assert len(client.tx.iv) == 12


def test_the_servers_preference_decides_on_the_suite() -> None:
    pair = shake_hands(server=server_parameters(cipher_suites=("AES_128_CCM", "AES_256_GCM")))
    assert pair.client.completed.cipher_suite == "AES_128_CCM"


@pytest.mark.parametrize("group", GROUPS)
def test_a_share_for_every_group_can_be_sent_at_once(group: str) -> None:
    pair = shake_hands(
        client_parameters(groups=(group,), key_shares=(group,)), server_parameters(groups=(group,))
    )
    assert pair.server.completed.group == group
    assert pair.client.sent.count(b"\x16\x03\x01") == 1


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ({"cipher_suites": ("AES_128_GCM",)}, {"cipher_suites": ("AES_256_GCM",)}),
        ({"groups": ("x25519",), "key_shares": ("x25519",)}, {"groups": ("secp384r1",)}),
    ],
    ids=["suites", "groups"],
)
def test_no_common_parameters(client: dict[str, Any], server: dict[str, Any]) -> None:
    pair = shake_hands(client_parameters(**client), server_parameters(**server))
    assert pair.server.failure.cause is Cause.NO_COMMON_PARAMETERS
    assert pair.server.failure.alert is Alert.HANDSHAKE_FAILURE
    assert pair.client.failure.cause is Cause.PEER_ALERT
    assert pair.client.failure.alert is Alert.HANDSHAKE_FAILURE


def test_a_client_that_takes_no_signature_of_ours_is_refused() -> None:
    peer = ClientAdversary(server_engine(server_parameters("p256")))
    peer.set_extension(*messages.signature_algorithms(0x0807))
    verdict = peer.run(peer.script())
    assert verdict.alert is Alert.HANDSHAKE_FAILURE
    assert "secp256r1" in verdict.reason


# ClientHello


def hello_of(**changes: Any) -> messages.ClientHello:
    return ServerAdversary(client_engine(client_parameters(**changes)), identity()).client_hello


def test_client_hello_holds_what_is_needed_and_nothing_else() -> None:
    hello = hello_of()
    assert hello.version == 0x0303
    assert hello.compression == b"\0"
    assert len(hello.session_id) == 32
    assert hello.cipher_suites == [SUITES_BY_NAME[name].number for name in CIPHER_SUITES]
    extensions = dict(hello.extensions)
    assert set(extensions) == {
        Type.SERVER_NAME,
        Type.SUPPORTED_GROUPS,
        Type.SIGNATURE_ALGORITHMS,
        Type.ALPN,
        Type.SUPPORTED_VERSIONS,
        Type.KEY_SHARE,
    }
    assert extensions[Type.SUPPORTED_VERSIONS] == b"\x02\x03\x04"
    assert extensions[Type.ALPN] == b"\x00\x07\x06sunrpc"
    assert extensions[Type.SERVER_NAME] == b"\x00\x0e\x00\x00\x0bserver.test"
    assert extensions[Type.SUPPORTED_GROUPS] == b"\x00\x08" + messages.numbers([29, 23, 24, 25])
    assert list(messages.read_client_shares(hello)) == [29, 23]
    assert messages.read_numbers(extensions[Type.SIGNATURE_ALGORITHMS][2:]) == [
        *(0x0403, 0x0807, 0x0804, 0x0809, 0x0503, 0x0805, 0x080A, 0x0603, 0x0808, 0x0806, 0x080B),
        *(0x0401, 0x0501, 0x0601),
    ]


@pytest.mark.parametrize("name", ["a", "nfs_server.test", "xn--bcher-kva.example", "A.Example"])
def test_the_server_name_is_sent_as_given(name: str) -> None:
    extensions = dict(hello_of(server_name=name).extensions)
    assert (Type.SERVER_NAME, extensions[Type.SERVER_NAME]) == messages.server_name(name.encode())


def test_without_a_name_there_is_no_server_name_extension() -> None:
    assert Type.SERVER_NAME not in dict(hello_of(server_name=None).extensions)


def test_without_protocols_there_is_no_alpn_extension() -> None:
    assert Type.ALPN not in dict(hello_of(alpn=()).extensions)


def test_a_client_with_a_certificate_offers_nothing_more() -> None:
    assert hello_of(identity=client_identity()) == hello_of()


def test_the_first_record_has_the_version_for_old_middleboxes() -> None:
    assert client_engine().data_to_send()[:3] == b"\x16\x03\x01"


@pytest.mark.parametrize("cookie", [None, b"\x00\x04cake"])
def test_the_second_client_hello_changes_what_was_asked_for(cookie: bytes | None) -> None:
    peer = ServerAdversary(client_engine(), identity(), group="secp521r1")
    first = peer.client_hello
    group = GROUPS_BY_NAME["secp521r1"].number
    peer.hello_retry_extensions = [(Type.KEY_SHARE, group.to_bytes(2))]
    if cookie is not None:
        peer.hello_retry_extensions.append((Type.COOKIE, cookie))
    assert peer.run(peer.script(hello_retry=True)).completed

    second = peer.client_hello
    assert (second.random, second.session_id) == (first.random, first.session_id)
    assert second.cipher_suites == first.cipher_suites
    assert list(messages.read_client_shares(second)) == [group]
    assert dict(second.extensions).get(Type.COOKIE) == cookie
    changed = {Type.KEY_SHARE, Type.COOKIE}
    assert [item for item in second.extensions if item[0] not in changed] == [
        item for item in first.extensions if item[0] not in changed
    ]


# SNI chooses among identities


def names_of(*wanted: str, key_type: KeyType = "p256") -> Any:
    return authority().issue(wanted, key_type=key_type).identity()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("b.test", "b.test"),
        ("B.TEST", "b.test"),
        ("b.test.", "b.test"),
        ("any.c.test", "*.c.test"),
        ("two.any.c.test", "a.test"),
        ("c.test", "a.test"),
        ("unknown.test", "a.test"),
        ("test", "a.test"),
        ("192.0.2.1", "a.test"),
        ("2001:db8::1", "a.test"),
        (None, "a.test"),
    ],
)
def test_sni_chooses_the_identity(asked: str | None, expected: str) -> None:
    identities = (names_of("a.test"), names_of("b.test"), names_of("*.c.test"))
    peer = ClientAdversary(server_engine(server_parameters(identities=identities)))
    peer.set_extension(Type.SERVER_NAME, messages.server_name(asked.encode())[1] if asked else None)
    assert peer.run(peer.script()).completed
    chosen = messages.read_certificate(peer.received[MessageType.CERTIFICATE])
    assert tuple(chosen) == next(item.chain for item in identities if item.names == (expected,))


@pytest.mark.parametrize(("scheme", "expected"), [(0x0403, "p256"), (0x0807, "ed25519"), (0x0804, "rsa2048")])
def test_the_clients_schemes_choose_among_keys_for_one_name(scheme: int, expected: KeyType) -> None:
    identities = tuple(identity(kind) for kind in ("rsa2048", "ed25519", "p256"))
    peer = ClientAdversary(server_engine(server_parameters(identities=identities)))
    peer.set_extension(*messages.signature_algorithms(scheme))
    assert peer.run(peer.script()).completed
    assert tuple(messages.read_certificate(peer.received[11])) == identity(expected).chain


def test_a_key_that_the_client_takes_comes_before_the_name() -> None:
    identities = (identity("p256"), names_of("named.test", key_type="ed448"))
    peer = ClientAdversary(server_engine(server_parameters(identities=identities)))
    peer.set_extension(*messages.server_name(b"named.test"))
    peer.set_extension(*messages.signature_algorithms(0x0403))
    assert peer.run(peer.script()).completed
    assert tuple(messages.read_certificate(peer.received[11])) == identity("p256").chain


def test_the_server_tells_which_name_was_asked_for() -> None:
    assert shake_hands().server.completed.server_name == SERVER_NAME
    assert shake_hands().client.completed.server_name == SERVER_NAME
    assert shake_hands(client_parameters(server_name=None)).server.completed.server_name is None


# ALPN


@pytest.mark.parametrize(
    ("offered", "spoken", "chosen"),
    [
        ((b"sunrpc",), (b"sunrpc",), b"sunrpc"),
        ((b"h2", b"sunrpc"), (b"sunrpc",), b"sunrpc"),
        ((b"sunrpc",), (b"h2", b"sunrpc"), b"sunrpc"),
        ((), (b"sunrpc",), None),
        ((b"sunrpc",), (), None),
        ((), (), None),
    ],
)
def test_alpn(offered: tuple[bytes, ...], spoken: tuple[bytes, ...], chosen: bytes | None) -> None:
    pair = shake_hands(client_parameters(alpn=offered), server_parameters(alpn=spoken))
    assert pair.client.completed.alpn == pair.server.completed.alpn == chosen


def test_a_client_of_another_protocol_is_refused() -> None:
    pair = shake_hands(client_parameters(alpn=(b"h2", b"\xff")))
    assert pair.server.failure.alert is Alert.NO_APPLICATION_PROTOCOL
    assert "'h2', '\\\\xff'" in pair.server.failure.reason
    assert pair.client.failure.alert is Alert.NO_APPLICATION_PROTOCOL


# What the server sends


def test_the_server_sends_no_ticket() -> None:
    peer = ClientAdversary(server_engine())
    peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, b"\x01\x01")
    assert peer.run(peer.script()).completed
    peer.deliver()
    assert peer.order == [2, 8, 11, 15, 20]


def test_without_a_verifier_no_certificate_is_asked_for() -> None:
    peer = ClientAdversary(server_engine())
    assert peer.run(peer.script()).completed
    assert MessageType.CERTIFICATE_REQUEST not in peer.received


@pytest.mark.parametrize("extra", [(), ("Second Root",)])
def test_certificate_request_names_the_authorities(extra: tuple[str, ...]) -> None:
    roots = (authority().certificate, *(pki.Authority(name).certificate for name in extra))
    store = TrustStore(roots)
    peer = ClientAdversary(
        server_engine(mutual_server(certificate_authorities=store.subjects)), client_identity()
    )
    assert peer.run(peer.script(certificate=True)).completed
    context, extensions = messages.read_certificate_request(peer.received[MessageType.CERTIFICATE_REQUEST])
    assert context == b""
    assert [kind for kind, _ in extensions] == [Type.SIGNATURE_ALGORITHMS, Type.CERTIFICATE_AUTHORITIES]
    listed = messages.Reader(messages.Reader(extensions[1][1]).vector(2))
    found = []
    while not listed.done:
        found.append(listed.vector(2))
    assert found == [root.subject.public_bytes() for root in roots]


def test_certificate_request_without_authorities_has_no_such_extension() -> None:
    peer = ClientAdversary(server_engine(mutual_server()), client_identity())
    assert peer.run(peer.script(certificate=True)).completed
    _, extensions = messages.read_certificate_request(peer.received[MessageType.CERTIFICATE_REQUEST])
    assert [kind for kind, _ in extensions] == [Type.SIGNATURE_ALGORITHMS]


def test_encrypted_extensions_hold_the_protocol_alone() -> None:
    for protocols, expected in (((b"sunrpc",), [messages.alpn(b"sunrpc")]), ((), [])):
        peer = ClientAdversary(server_engine(server_parameters(alpn=protocols)))
        peer.set_extension(*messages.alpn(b"sunrpc"))
        assert peer.run(peer.script()).completed
        assert messages.read_encrypted_extensions(peer.received[8]) == expected


@pytest.mark.parametrize("session_id", [b"", b"s" * 32])
def test_the_session_id_is_echoed_and_followed_by_change_cipher_spec(session_id: bytes) -> None:
    peer = ClientAdversary(server_engine())
    peer.hello.session_id = session_id
    assert peer.run(peer.script()).completed
    assert peer.server_hello.session_id == session_id
    assert ([kind for kind, _ in peer.records].count(20) == 1) is bool(session_id)


# Client certificates


def test_a_client_that_is_not_asked_presents_nothing() -> None:
    peer = ServerAdversary(client_engine(mutual_client()), identity())
    assert peer.run(peer.script()).completed
    assert peer.order == [MessageType.CLIENT_HELLO, MessageType.FINISHED]


@pytest.mark.parametrize(
    ("parameters", "schemes"),
    [(client_parameters, [0x0403]), (mutual_client, [0x0807]), (mutual_client, [0x0401, 0x0203])],
    ids=["has none", "has one of another kind", "schemes that TLS 1.3 does not have"],
)
def test_a_client_without_a_fitting_certificate_presents_an_empty_list(
    parameters: Callable[[], ClientParameters], schemes: list[int]
) -> None:
    peer = ServerAdversary(client_engine(parameters()), identity())
    peer.request_extensions = [messages.signature_algorithms(*schemes)]
    assert peer.run(peer.script(client_certificate=True)).completed
    assert peer.order == [MessageType.CLIENT_HELLO, MessageType.CERTIFICATE, MessageType.FINISHED]
    assert messages.read_certificate(peer.received[MessageType.CERTIFICATE]) == []


def test_a_client_sends_its_whole_chain() -> None:
    intermediate = authority().subordinate()
    leaf = intermediate.issue(("client.test",)).identity()
    pair = shake_hands(client_parameters(identity=leaf), mutual_server())
    peer = pair.server.completed.peer
    assert peer is not None
    assert peer.chain == leaf.chain
    assert len(peer.chain) == 2


def test_a_server_may_accept_a_client_without_a_certificate() -> None:
    pair = shake_hands(client_parameters(), mutual_server(require_client_certificate=False))
    assert pair.server.completed.peer is None
    assert_keys_match(pair)


def test_a_server_may_require_a_certificate() -> None:
    pair = shake_hands(client_parameters(), mutual_server())
    assert pair.server.failure.cause is Cause.NO_PEER_CERTIFICATE
    assert pair.server.failure.alert is Alert.CERTIFICATE_REQUIRED
    assert "configure one on the client" in pair.server.failure.reason


# Rejection


def stranger() -> pki.Authority:
    return pki.Authority("Stranger")


def stranger_verifier() -> ClientCertificateVerifier:
    return ClientCertificateVerifier(TrustStore([stranger().certificate]), now=pki.NOW)


def expired(*, later: int = 30_000) -> ServerCertificateVerifier:
    return ServerCertificateVerifier(trust(), name=SERVER_NAME, now=pki.NOW + later * pki.DAY)


@pytest.mark.parametrize(
    ("verifier", "cause", "alert", "word"),
    [
        (lambda: server_verifier("other.test"), Cause.NAME_MISMATCH, Alert.BAD_CERTIFICATE, "other.test"),
        (expired, Cause.CERTIFICATE_EXPIRED, Alert.CERTIFICATE_EXPIRED, "expired"),
        (
            lambda: ServerCertificateVerifier(
                TrustStore([stranger().certificate]), name=SERVER_NAME, now=pki.NOW
            ),
            Cause.UNKNOWN_CA,
            Alert.UNKNOWN_CA,
            "Test Root",
        ),
    ],
    ids=["name", "expired", "stranger"],
)
def test_a_server_is_rejected_before_the_client_has_finished(
    verifier: Callable[[], ServerCertificateVerifier], cause: Cause, alert: Alert, word: str
) -> None:
    peer = ServerAdversary(client_engine(client_parameters(verifier=verifier())), identity())
    verdict = peer.run(peer.script())
    assert isinstance(verdict.event, HandshakeFailed)
    assert verdict.event.failure.cause is cause
    assert word in verdict.reason
    assert (verdict.alert, verdict.level, verdict.protection) == (alert, 2, Protection.HANDSHAKE)
    assert MessageType.FINISHED not in peer.received


def test_the_rejected_server_is_told_why() -> None:
    pair = shake_hands(client_parameters(verifier=server_verifier("other.test")))
    told = pair.server.failure
    assert (told.cause, told.alert) == (Cause.PEER_ALERT, Alert.BAD_CERTIFICATE)
    assert "refused our certificate" in told.reason


def test_a_client_is_rejected_with_an_alert_under_the_application_keys() -> None:
    peer = ClientAdversary(server_engine(mutual_server(verifier=stranger_verifier())), client_identity())
    verdict = peer.run(peer.script(certificate=True))
    assert (verdict.alert, verdict.protection) == (Alert.UNKNOWN_CA, Protection.APPLICATION)
    assert isinstance(verdict.event, HandshakeFailed)
    assert verdict.event.failure.cause is Cause.UNKNOWN_CA


@pytest.mark.parametrize(
    ("alert", "words"),
    [
        (Alert.UNKNOWN_CA, "refused our certificate (alert unknown_ca)"),
        (Alert.CERTIFICATE_REQUIRED, "wants a certificate and we presented none"),
        (Alert.CLOSE_NOTIFY, "closed the connection during the handshake"),
        (Alert.HANDSHAKE_FAILURE, "ended the handshake (alert handshake_failure)"),
        (251, "unknown alert 251"),
    ],
)
@pytest.mark.parametrize("role", ROLES)
def test_an_alert_from_the_peer_is_explained_and_not_answered(role: str, alert: int, words: str) -> None:
    engine = started(role)
    engine.data_to_send()
    engine.receive_data(bytes([21, 3, 3, 0, 2, 2, alert]))
    failed_with = ending(engine)
    assert failed_with.cause is Cause.PEER_ALERT
    assert words in failed_with.reason
    assert failed_with.alert == (alert if isinstance(alert, Alert) else None)
    assert engine.data_to_send() == b""


def test_a_client_explains_an_alert_under_the_handshake_keys() -> None:
    peer = ServerAdversary(client_engine(), identity())
    peer.run(peer.script()[:4])
    peer.alert(Alert.ACCESS_DENIED)
    peer.deliver()
    verdict = peer.verdict()
    assert "access_denied" in verdict.reason
    assert verdict.alert is None


# Secrets don't leave by accident


def secret_texts(data: bytes) -> Iterator[str]:
    yield data.hex()
    yield repr(data)[2:-1]
    yield str(list(data))[1:-1]


def test_secrets_are_not_in_any_repr() -> None:
    pair = shake_hands(mutual_client("ed25519"), mutual_server("ed25519"))
    connection = pair.client.engine._connection
    keys = [connection.writer.key, connection.reader.key]
    secrets = pair.client.engine.extract_secrets()
    shown = "\n".join(
        repr(item)
        for item in (
            secrets,
            secrets.tx,
            keys,
            pair.client.engine,
            connection,
            pair.client.event,
            mutual_client("ed25519"),
            mutual_server("ed25519"),
            client_identity("ed25519"),
        )
    )
    private = issued("ed25519").private_key_der()[-32:]
    for secret in (secrets.tx.key, secrets.rx.key, secrets.tx.iv, secrets.rx.iv, private):
        for text in secret_texts(secret):
            assert text not in shown


def test_the_engine_forgets_the_keys_that_it_gave_away() -> None:
    pair = shake_hands()
    pair.client.engine.extract_secrets()
    connection = pair.client.engine._connection
    assert connection.writer.key is None
    assert connection.reader.key is None


def test_parameters_have_the_defaults_of_rpc_with_tls() -> None:
    client = ClientParameters(verifier=server_verifier())
    server = ServerParameters(identities=(identity(),))
    assert client.alpn == server.alpn == (b"sunrpc",)
    assert client.cipher_suites == server.cipher_suites == CIPHER_SUITES
    assert client.key_shares == ("x25519", "secp256r1")
    assert server.verifier is None


@settings(max_examples=20)
@given(st.binary(max_size=16))
def test_engines_of_one_process_don_t_disturb_each_other(seed: bytes) -> None:
    alone = observed(shake_hands(seed=seed))
    clients = [client_engine(seed=b"client" + seed) for _ in range(3)]
    servers = [server_engine(seed=b"server" + seed) for _ in range(3)]
    for client, server in zip(clients, servers, strict=True):
        server.receive_data(client.data_to_send())
    for client, server in zip(clients, servers, strict=True):
        client.receive_data(server.data_to_send())
    for client, server in zip(clients, servers, strict=True):
        server.receive_data(client.data_to_send())
        assert (client.next_event(), server.next_event()) == alone[2:4]
        assert (client.extract_secrets(), server.extract_secrets()) == alone[4]


def test_client_verifier_is_the_real_one() -> None:
    assert isinstance(mutual_server().verifier, type(client_verifier()))
