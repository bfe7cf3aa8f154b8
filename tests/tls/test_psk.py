"""Pre-shared keys in both roles: what is offered, chosen, refused and told, and the pause while keys are looked up."""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.sansio.ktls import KernelSecrets
from ktls_agent.sansio.status import Alert, Cause, Failure, failure
from ktls_agent.sansio.testing.pair import PERFECT_LINK, ConnectionPair, Link
from ktls_agent.sansio.tls.engine import MAX_TRAILING_DATA, LocalProtocolError, TlsEngine
from ktls_agent.sansio.tls.parameters import (
    CIPHER_SUITES,
    GROUPS,
    MAX_PSK_IDENTITIES,
    ClientPskParameters,
    HandshakeCompleted,
    HandshakeFailed,
    KeysRequested,
    PreSharedKey,
    ServerPskParameters,
)
from ktls_agent.sansio.tls.primitives import SUITES_BY_NAME, Transcript
from tests.peers import messages
from tests.peers.adversary import Protection, ServerAdversary, Verdict, sends
from tests.peers.messages import MessageType, Type
from tests.peers.psk import (
    OTHER,
    SHA256,
    SHA384,
    PskClient,
    binder,
    offering,
    psk_client,
    psk_server,
    started,
    truncated,
)
from tests.tls.handshakes import (
    BYTE_BY_BYTE,
    Counter,
    client_engine,
    identity,
    secrets_of,
    server_engine,
)
from tests.tls.test_engine_primitives import arithmetic, watching

KEYS: Final = {"sha256": SHA256, "sha384": SHA384}
X25519, P256 = 29, 23


def shake_hands(
    client: ClientPskParameters,
    server: ServerPskParameters | None = None,
    *,
    known: Iterable[PreSharedKey] = (SHA256, SHA384, OTHER),
    link: Link = PERFECT_LINK,
) -> ConnectionPair:
    pair = ConnectionPair(
        client,
        server or ServerPskParameters(),
        psks={key.identity: key for key in known},
        to_server=link,
        to_client=link,
        exact_reads=False,
    )
    pair.run()
    return pair


def completed(pair: ConnectionPair) -> tuple[HandshakeCompleted, HandshakeCompleted]:
    return pair.client.completed, pair.server.completed


def failed(pair: ConnectionPair) -> tuple[Failure, Failure]:
    return pair.client.failure, pair.server.failure


def assert_keys_match(pair: ConnectionPair) -> KernelSecrets:
    client, server = secrets_of(pair)
    assert (client.tx, client.rx, client.cipher) == (server.rx, server.tx, server.cipher)
    assert client.tx.sequence == client.rx.sequence == 0
    return client


# What can be negotiated


@pytest.mark.parametrize("retry", [False, True], ids=["at once", "HelloRetryRequest"])
@pytest.mark.parametrize(("suite", "group"), [*product(CIPHER_SUITES, GROUPS)])
def test_every_suite_and_group(suite: str, group: str, retry: bool) -> None:
    key = KEYS[SUITES_BY_NAME[suite].hash_name]
    share = next(name for name in GROUPS if name != group) if retry else group
    pair = shake_hands(
        offering(SHA384, SHA256, groups=GROUPS, key_shares=(share,)),
        ServerPskParameters(cipher_suites=(suite,), groups=(group,)),
    )
    for side in completed(pair):
        assert (side.cipher_suite, side.group, side.psk_identity) == (suite, group, key.identity)
        assert (side.peer, side.alpn, side.server_name) == (None, None, None)
    assert_keys_match(pair)
    assert pair.client.sent.count(b"\x16\x03\x01") + pair.client.sent.count(b"\x16\x03\x03") >= 1 + retry


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_a_suite_of_the_other_hash_is_neither_offered_nor_chosen(suite: str) -> None:
    wanted = SUITES_BY_NAME[suite].hash_name
    key = KEYS["sha384" if wanted == "sha256" else "sha256"]
    hello = hello_of(offering(key))
    assert SUITES_BY_NAME[suite].number not in hello.cipher_suites
    assert hello.cipher_suites
    client, server = failed(shake_hands(offering(key), ServerPskParameters(cipher_suites=(suite,))))
    assert (server.cause, server.alert) == (Cause.NO_COMMON_PARAMETERS, Alert.HANDSHAKE_FAILURE)
    assert "cipher suite that fits" in server.reason
    assert (client.cause, client.alert) == (Cause.PEER_ALERT, Alert.HANDSHAKE_FAILURE)


@pytest.mark.parametrize(
    ("offered", "known", "chosen"),
    [
        ((SHA256, OTHER), (SHA256, OTHER), SHA256),
        ((OTHER, SHA256), (SHA256, OTHER), OTHER),
        ((OTHER, SHA256), (SHA256,), SHA256),
        ((OTHER, SHA384, SHA256), (SHA256, SHA384), SHA384),
        ((SHA384, SHA256), (SHA256,), SHA256),
    ],
)
@pytest.mark.parametrize("shares", [("x25519",), ("secp521r1",)], ids=["at once", "HelloRetryRequest"])
def test_the_first_offered_key_that_is_known_is_chosen_and_told_by_both(
    offered: tuple[PreSharedKey, ...],
    known: tuple[PreSharedKey, ...],
    chosen: PreSharedKey,
    shares: tuple[str, ...],
) -> None:
    pair = shake_hands(
        offering(*offered, key_shares=shares), ServerPskParameters(groups=("x25519",)), known=known
    )
    assert pair.server.keys_requested == tuple(key.identity for key in offered)
    assert [side.psk_identity for side in completed(pair)] == [chosen.identity] * 2
    assert_keys_match(pair)


def test_a_known_key_that_fits_no_suite_is_passed_over() -> None:
    pair = shake_hands(offering(SHA384, SHA256), ServerPskParameters(cipher_suites=("AES_128_GCM",)))
    assert {side.psk_identity for side in completed(pair)} == {SHA256.identity}


def test_two_keys_of_one_identity_are_told_apart_by_the_choice() -> None:
    twin = replace(SHA384, identity=SHA256.identity)
    pair = shake_hands(offering(SHA256, twin, cipher_suites=("AES_128_GCM",)), known=(SHA256,))
    assert_keys_match(pair)
    peer = psk_server(offering(SHA256, twin), chosen=1, key=twin)
    assert peer.run(peer.script()).completed


@pytest.mark.parametrize(
    "name",
    [bytes(range(256)), b"\0", b"x", b"\n\r", "Füße".encode(), bytes(range(250)) * 260],
    ids=["all bytes", "NUL", "one byte", "newlines", "UTF-8", "65000 bytes"],
)
def test_identities_are_any_bytes(name: bytes) -> None:
    key = replace(SHA256, identity=name)
    for shares in (("x25519",), ("secp384r1",)):
        pair = shake_hands(
            offering(key, key_shares=shares), ServerPskParameters(groups=("x25519",)), known=(key,)
        )
        assert [side.psk_identity for side in completed(pair)] == [name, name]


@pytest.mark.parametrize("length", [1, 16, 32, 48, 64, 200, 1000])
def test_a_key_has_any_length(length: int) -> None:
    key = replace(SHA256, secret=b"k" * length)
    assert_keys_match(shake_hands(offering(key), known=(key,)))


def test_identities_past_the_bound_are_not_looked_up() -> None:
    many = tuple(replace(OTHER, identity=b"%d" % number) for number in range(MAX_PSK_IDENTITIES))
    pair = shake_hands(offering(*many, SHA256), known=(SHA256,))
    assert pair.server.keys_requested == tuple(key.identity for key in many)
    client, server = failed(pair)
    assert (server.cause, client.alert) == (Cause.UNKNOWN_PSK, Alert.UNKNOWN_PSK_IDENTITY)
    assert "29 more" in server.reason
    last = shake_hands(offering(*many[1:], SHA256), known=(SHA256,))
    assert {side.psk_identity for side in completed(last)} == {SHA256.identity}


@pytest.mark.parametrize(("offered", "spoken"), [((b"a",), (b"a",)), ((), (b"a",)), ((b"a",), ())])
def test_alpn_and_name(offered: tuple[bytes, ...], spoken: tuple[bytes, ...]) -> None:
    pair = shake_hands(offering(alpn=offered, server_name="target.test"), ServerPskParameters(alpn=spoken))
    for side in completed(pair):
        assert side.alpn == (b"a" if offered and spoken else None)
        assert side.server_name == "target.test"


# psk_ke, only where both allow it


@pytest.mark.parametrize(("client", "server"), [*product([False, True], [False, True])])
def test_key_exchange_is_preferred_to_psk_ke(client: bool, server: bool) -> None:
    pair = shake_hands(offering(allow_psk_ke=client), ServerPskParameters(allow_psk_ke=server))
    assert {side.group for side in completed(pair)} == {"x25519"}


@pytest.mark.parametrize("allowed", [False, True])
def test_a_client_that_only_takes_psk_ke(allowed: bool) -> None:
    peer = psk_client(ServerPskParameters(allow_psk_ke=allowed), modes=b"\x01\x00")
    verdict = peer.run(peer.script()[:1])
    if allowed:
        assert verdict.event is None
        assert Type.KEY_SHARE not in dict(messages.read_server_hello(peer.received[2]).extensions)
    else:
        assert_refused(verdict, Alert.HANDSHAKE_FAILURE, Cause.NO_COMMON_PARAMETERS)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_server_that_leaves_out_the_key_exchange(allowed: bool) -> None:
    peer = psk_server(offering(allow_psk_ke=allowed), key_share=False)
    verdict = peer.run(peer.script())
    if allowed:
        assert isinstance(verdict.event, HandshakeCompleted)
        assert verdict.event.group is None
    else:
        assert_refused(verdict, Alert.ILLEGAL_PARAMETER)
        assert "key exchange" in verdict.reason


# Refusals between honest ends


def test_an_unknown_identity_and_a_wrong_binder_are_told_apart() -> None:
    client, server = failed(shake_hands(offering(), known=()))
    assert (server.cause, server.alert) == (Cause.UNKNOWN_PSK, Alert.UNKNOWN_PSK_IDENTITY)
    assert SHA256.identity.decode() in server.reason
    assert (client.cause, client.alert) == (Cause.PEER_ALERT, Alert.UNKNOWN_PSK_IDENTITY)

    client, server = failed(shake_hands(offering(), known=(replace(SHA256, secret=bytes(32)),)))
    assert (server.cause, server.alert) == (Cause.PSK_MISMATCH, Alert.DECRYPT_ERROR)
    assert SHA256.identity.decode() in server.reason
    assert (client.cause, client.alert) == (Cause.PEER_ALERT, Alert.DECRYPT_ERROR)


def test_a_wrong_key_is_not_passed_over_for_the_next() -> None:
    _, server = failed(shake_hands(offering(SHA256, OTHER), known=(replace(SHA256, secret=b"no"), OTHER)))
    assert server.cause is Cause.PSK_MISMATCH


def test_one_identity_with_another_hash_is_a_mismatch_or_no_suite() -> None:
    _, server = failed(shake_hands(offering(), known=(replace(SHA384, identity=SHA256.identity),)))
    assert server.cause is Cause.NO_COMMON_PARAMETERS


def test_a_certificate_client_at_a_psk_server() -> None:
    client, server = client_engine(), started(ServerPskParameters())
    server.receive_data(client.data_to_send())
    failed = failure_of(server)
    assert (failed.cause, failed.alert) == (Cause.NO_COMMON_PARAMETERS, Alert.HANDSHAKE_FAILURE)
    assert "no pre-shared key" in failed.reason


def test_a_psk_client_at_a_certificate_server() -> None:
    client, server = started(offering()), server_engine()
    server.receive_data(client.data_to_send())
    assert failure_of(server).alert is Alert.MISSING_EXTENSION
    client.receive_data(server.data_to_send())
    assert failure_of(client).cause is Cause.PEER_ALERT


@pytest.mark.parametrize("name", [b"\n\x1b[31m", b"x" * 65_000, "ü".encode() * 5000, b"\0" * 200])
def test_a_reason_is_printable_and_short_whatever_the_identity(name: bytes) -> None:
    keys = [replace(SHA256, identity=name[:-1] + bytes([number])) for number in range(1, 4)]
    wanted = keys if len(name) < 10_000 else keys[:1]
    _, server = failed(shake_hands(offering(*wanted), known=()))
    assert server.reason.isprintable()
    assert len(server.reason) < 1000, "it goes into one line of the log"


def failure_of(engine: TlsEngine) -> Failure:
    event = engine.next_event()
    assert isinstance(event, HandshakeFailed), event
    return event.failure


# The pause


def paused(*, trailing: bytes = b"") -> tuple[TlsEngine, TlsEngine]:
    client, server = started(offering(SHA256, OTHER)), started(ServerPskParameters())
    server.receive_data(client.data_to_send() + trailing)
    assert server.next_event() == KeysRequested(identities=(SHA256.identity, OTHER.identity))
    return client, server


def test_while_keys_are_looked_up_nothing_is_sent_or_wanted_or_told() -> None:
    client, server = paused()
    assert server.data_to_send() == b""
    assert server.bytes_wanted() == 0
    assert server.next_event() is None
    assert server.trailing_data() == b""
    with pytest.raises(LocalProtocolError, match="waiting_for_keys"):
        server.extract_secrets()
    server.provide_keys((OTHER,))
    client.receive_data(server.data_to_send())
    server.receive_data(client.data_to_send())
    event = server.next_event()
    assert isinstance(event, HandshakeCompleted)
    assert event.psk_identity == OTHER.identity


def test_keys_that_were_not_asked_for_are_ignored() -> None:
    client, server = paused()
    server.provide_keys((SHA384,))
    assert failure_of(server).cause is Cause.UNKNOWN_PSK
    client.receive_data(server.data_to_send())
    assert failure_of(client).alert is Alert.UNKNOWN_PSK_IDENTITY


def test_end_of_file_in_the_pause() -> None:
    _, server = paused()
    server.receive_data(b"")
    assert failure_of(server).cause is Cause.END_OF_FILE
    assert server.data_to_send() == b""
    with pytest.raises(LocalProtocolError, match="no keys were requested"):
        server.provide_keys((SHA256,))


@pytest.mark.parametrize(
    ("cause", "alert"), [(Cause.TIMED_OUT, Alert.USER_CANCELED), (Cause.CANCELLED, None)]
)
def test_abort_in_the_pause(cause: Cause, alert: Alert | None) -> None:
    _, server = paused()
    server.abort(failure(cause, "too slow a keyring"))
    assert failure_of(server).cause is cause
    assert server.data_to_send()[6:] == (b"" if alert is None else bytes([alert]))
    with pytest.raises(LocalProtocolError):
        server.provide_keys((SHA256,))


def test_data_fed_in_the_pause_waits() -> None:
    _, server = paused()
    server.receive_data(b"\x14\x03\x03\x00\x01")
    server.receive_data(b"\x01GET /")
    assert server.next_event() is None
    server.provide_keys((SHA256,))
    assert failure_of(server).alert is Alert.UNEXPECTED_MESSAGE


def test_data_fed_in_the_pause_has_a_bound() -> None:
    _, server = paused(trailing=b"\x17")
    with pytest.raises(LocalProtocolError, match="wants nothing now"):
        server.receive_data(bytes(MAX_TRAILING_DATA))


@pytest.mark.parametrize(
    "make",
    [
        lambda: started(offering()),
        lambda: started(ServerPskParameters()),
        lambda: TlsEngine(ServerPskParameters(), entropy=Counter()),
        server_engine,
    ],
    ids=["client", "before the hello", "before the start", "certificates"],
)
def test_keys_are_provided_when_they_are_asked_for_alone(make: Callable[[], TlsEngine]) -> None:
    with pytest.raises(LocalProtocolError, match="no keys were requested"):
        make().provide_keys((SHA256,))


def test_keys_are_provided_once_and_asked_for_once() -> None:
    pair = shake_hands(offering(key_shares=("secp521r1",)), ServerPskParameters(groups=("x25519",)))
    completed(pair)
    with pytest.raises(LocalProtocolError, match="no keys were requested"):
        pair.server.engine.provide_keys((SHA256,))


# Feeding and entropy


@settings(max_examples=30, deadline=None)  # byte by byte takes 200 ms on a busy machine
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    group=st.sampled_from(["x25519", "secp384r1"]),
    known=st.sampled_from([(SHA256,), (SHA384, SHA256), (), (replace(SHA256, secret=b"no"),)]),
)
def test_how_a_stream_is_cut_makes_no_difference(
    sizes: list[int], group: str, known: tuple[PreSharedKey, ...]
) -> None:
    seen = []
    for link in (PERFECT_LINK, BYTE_BY_BYTE, Link(chunks=tuple(sizes))):
        pair = shake_hands(
            offering(SHA384, SHA256), ServerPskParameters(groups=(group,)), known=known, link=link
        )
        secrets = secrets_of(pair) if isinstance(pair.client.event, HandshakeCompleted) else None
        seen.append((pair.client.event, pair.server.event, pair.client.sent, pair.server.sent, secrets))
    assert seen[0] == seen[1] == seen[2]


# Secrets stay inside


@pytest.mark.parametrize("known", [(SHA256,), (replace(SHA256, secret=b"W" * 32),)], ids=["right", "wrong"])
def test_no_secret_is_in_a_repr_or_a_reason(known: tuple[PreSharedKey, ...]) -> None:
    key = replace(SHA256, secret=b"TOP-SECRET-TOP-SECRET-TOP-SECRET")
    known = tuple(key if item is SHA256 else item for item in known)
    pair = shake_hands(offering(key), known=known)
    shown = f"{key!r} {offering(key)!r} {pair.client.event!r} {pair.server.event!r} {pair.client.engine!r}"
    for secret in (item.secret for item in (key, *known)):
        for text in (repr(secret)[2:-1], secret.hex(), str(list(secret))[1:-1]):
            assert text not in shown


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_no_pure_python_primitive_runs(suite: str, group: str) -> None:
    with watching() as called:
        pair = shake_hands(
            offering(SHA256, SHA384), ServerPskParameters(cipher_suites=(suite,), groups=(group,))
        )
        assert_keys_match(pair)
    assert arithmetic(called) == set()
    assert not any(function == "update_binders" for _, function in called)
    assert not any(function in ("verify_binder", "_calc_binder") for _, function in called)


def test_binders_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    peer = psk_client()
    peer.run(peer.script()[:1])
    assert compared[0][1] == binder(SHA256, Transcript(), truncated(peer.sent[5:], 33))


# What is sent


def hello_of(parameters: ClientPskParameters) -> messages.ClientHello:
    return ServerAdversary(started(parameters), identity()).client_hello


@pytest.mark.parametrize(("allow", "modes"), [(False, b"\x01\x01"), (True, b"\x02\x01\x00")])
def test_client_hello_holds_what_is_needed_and_nothing_else(allow: bool, modes: bytes) -> None:
    hello = hello_of(offering(SHA384, SHA256, OTHER, allow_psk_ke=allow))
    assert [kind for kind, _ in hello.extensions][-1] == Type.PRE_SHARED_KEY
    extensions = dict(hello.extensions)
    assert set(extensions) == {
        Type.SUPPORTED_VERSIONS,
        Type.SUPPORTED_GROUPS,
        Type.KEY_SHARE,
        Type.PSK_KEY_EXCHANGE_MODES,
        Type.PRE_SHARED_KEY,
    }
    assert extensions[Type.PSK_KEY_EXCHANGE_MODES] == modes
    offer = messages.Reader(extensions[Type.PRE_SHARED_KEY])
    listed, binders = messages.Reader(offer.vector(2)), messages.Reader(offer.vector(2))
    offer.end()
    for key in (SHA384, SHA256, OTHER):
        assert listed.vector(2) == key.identity
        assert listed.take(4) == bytes(4), "an external key has no age (RFC 8446, 4.2.11)"
        assert len(binders.vector(1)) == hashlib.new(key.hash_name).digest_size
    assert listed.done
    assert binders.done


def test_the_server_sends_nothing_after_its_finished() -> None:
    peer = psk_client()
    assert peer.run(peer.script()).completed
    peer.deliver()
    assert peer.order == [2, 8, 20]
    assert messages.read_encrypted_extensions(peer.received[8]) == []
    hello = dict(peer.server_hello.extensions)
    assert hello[Type.PRE_SHARED_KEY] == b"\0\0"


@pytest.mark.parametrize(("suite", "left"), [(0x1301, SHA256), (0x1302, SHA384)])
def test_after_a_retry_keys_of_the_other_hash_are_not_offered(suite: int, left: PreSharedKey) -> None:
    """RFC 8446, 4.1.4: so that no transcript of the other hash is needed."""
    peer = psk_server(offering(SHA384, SHA256), group="secp384r1", suite=suite, key=left, chosen=0)
    first = peer.client_hello
    assert peer.run(peer.script(hello_retry=True)).completed
    second = peer.client_hello
    assert second.cipher_suites == first.cipher_suites
    assert second.extensions[-1][0] == Type.PRE_SHARED_KEY
    assert (
        second.extensions[-1][1][: -35 if suite == 0x1301 else -51]
        == messages.psk_offer([left.identity], [])[1][:-2]
    )


# Binders, computed here a second time with nothing but hashlib and hmac


@pytest.mark.parametrize("key", [SHA256, SHA384])
def test_the_binder_is_rfc_8446s(key: PreSharedKey) -> None:
    hello = started(offering(key)).data_to_send()[5:]
    size = hashlib.new(key.hash_name).digest_size
    assert hello[-size:] == binder(key, Transcript(), truncated(hello, size + 1))


# Adversaries


def assert_refused(verdict: Verdict, alert: Alert, cause: Cause = Cause.PROTOCOL_VIOLATION) -> None:
    assert isinstance(verdict.event, HandshakeFailed), verdict
    assert (verdict.alert, verdict.level) == (alert, 2), verdict
    assert verdict.event.failure.cause is cause, verdict


def with_offer(identities: list[bytes], binders: list[bytes]) -> Callable[[PskClient], None]:
    return lambda peer: peer.set_extension(*messages.psk_offer(identities, binders))


def with_extensions_behind(*extensions: messages.Extension) -> Callable[[PskClient], None]:
    return lambda peer: peer.hello.extensions.extend(extensions)


def with_content(kind: int, content: bytes | None) -> Callable[[PskClient], None]:
    return lambda peer: peer.set_extension(kind, content)


def several(*changes: Callable[[PskClient], None]) -> Callable[[PskClient], None]:
    def change(peer: PskClient) -> None:
        for one in changes:
            one(peer)

    return change


NAME: Final = SHA256.identity
PSK_KE_ALONE: Final = with_content(Type.PSK_KEY_EXCHANGE_MODES, b"\x01\x00")


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        (with_offer([], []), Alert.DECODE_ERROR),
        (with_offer([NAME], []), Alert.DECODE_ERROR),
        (with_offer([], [bytes(32)]), Alert.DECODE_ERROR),
        (with_offer([b""], [bytes(32)]), Alert.DECODE_ERROR),
        (with_offer([NAME, b""], [bytes(32)] * 2), Alert.DECODE_ERROR),
        (with_offer([NAME], [b""]), Alert.DECODE_ERROR),
        (with_offer([NAME], [bytes(31)]), Alert.DECODE_ERROR),
        (with_offer([NAME, b"two"], [bytes(32)]), Alert.ILLEGAL_PARAMETER),
        (with_offer([NAME], [bytes(32)] * 2), Alert.ILLEGAL_PARAMETER),
        (with_content(Type.PRE_SHARED_KEY, b""), Alert.DECODE_ERROR),
        (
            with_content(Type.PRE_SHARED_KEY, messages.psk_offer([NAME], [bytes(32)])[1] + b"\0"),
            Alert.DECODE_ERROR,
        ),
        (
            with_content(Type.PRE_SHARED_KEY, messages.psk_offer([NAME], [bytes(32)])[1][:-1]),
            Alert.DECODE_ERROR,
        ),
        (with_extensions_behind((0x7A7A, b"")), Alert.ILLEGAL_PARAMETER),
        (with_extensions_behind((Type.EARLY_DATA, b"")), Alert.ILLEGAL_PARAMETER),
        (
            several(
                with_content(Type.SERVER_NAME, None),
                with_extensions_behind(messages.server_name(b"server.test")),
            ),
            Alert.ILLEGAL_PARAMETER,
        ),
        (with_extensions_behind(messages.psk_offer([NAME], [bytes(32)])), Alert.ILLEGAL_PARAMETER),
        (with_content(Type.PSK_KEY_EXCHANGE_MODES, None), Alert.MISSING_EXTENSION),
        (with_content(Type.PSK_KEY_EXCHANGE_MODES, b""), Alert.DECODE_ERROR),
        (with_content(Type.PSK_KEY_EXCHANGE_MODES, b"\0"), Alert.DECODE_ERROR),
        (with_content(Type.KEY_SHARE, None), Alert.MISSING_EXTENSION),
        (with_content(Type.KEY_SHARE, b""), Alert.DECODE_ERROR),
        (with_content(Type.SUPPORTED_GROUPS, None), Alert.MISSING_EXTENSION),
        (with_content(Type.SUPPORTED_GROUPS, b"\0\0"), Alert.DECODE_ERROR),
        (several(PSK_KE_ALONE, with_content(Type.KEY_SHARE, b"")), Alert.DECODE_ERROR),
        (several(PSK_KE_ALONE, with_content(Type.SUPPORTED_GROUPS, b"\0\0")), Alert.DECODE_ERROR),
        (
            several(
                PSK_KE_ALONE,
                with_content(*messages.client_shares((P256, b"x"))),
                with_content(Type.SUPPORTED_GROUPS, None),
            ),
            Alert.MISSING_EXTENSION,
        ),
    ],
)
@pytest.mark.parametrize("server", ["pre-shared keys", "certificates"])
def test_malformed_offers_are_refused(change: Callable[[PskClient], None], alert: Alert, server: str) -> None:
    peer = psk_client(ServerPskParameters(allow_psk_ke=True))
    if server == "certificates":
        peer.engine = server_engine()
        peer.set_extension(*messages.signature_algorithms(0x0403))

    def edit(data: bytes) -> bytes:
        peer.offer(data)
        change(peer)
        return peer.hello.write()

    peer.alter[MessageType.CLIENT_HELLO] = edit
    assert_refused(peer.run(peer.script()), alert)


@pytest.mark.parametrize("size", [32, 33, 47, 48, 255])
def test_a_wrong_binder_of_any_length(size: int) -> None:
    peer = psk_client()
    peer.alter[MessageType.CLIENT_HELLO] = lambda _: peer.hello.write()
    with_offer([NAME], [bytes(size)])(peer)
    assert_refused(peer.run(peer.script()), Alert.DECRYPT_ERROR, Cause.PSK_MISMATCH)


def test_psk_ke_without_groups_is_no_defect_of_a_certificate_server() -> None:
    peer = psk_client(modes=b"\x01\x00")
    peer.engine = server_engine()
    for kind in (Type.KEY_SHARE, Type.SUPPORTED_GROUPS):
        peer.set_extension(kind, None)
    peer.hello.extensions.append(messages.signature_algorithms(0x0403))
    assert_refused(peer.run(peer.script()), Alert.MISSING_EXTENSION)


def test_psk_ke_without_groups_is_taken_where_it_is_allowed() -> None:
    peer = psk_client(ServerPskParameters(allow_psk_ke=True), modes=b"\x01\x00")
    for kind in (Type.KEY_SHARE, Type.SUPPORTED_GROUPS):
        peer.set_extension(kind, None)
    assert peer.run(peer.script()[:1]).event is None
    assert peer.received[MessageType.SERVER_HELLO]


def test_a_client_with_other_modes_too() -> None:
    peer = psk_client(modes=b"\x03\x0b\x01\x1b")
    assert peer.run(peer.script()).completed


def test_the_second_hello_is_bound_to_the_retry() -> None:
    peer = psk_client(share_sent=False)
    assert peer.run(peer.script(hello_retry=True)).completed

    peer = psk_client(share_sent=False)
    hellos: list[bytes] = []

    def rebind(data: bytes) -> bytes:
        if hellos:
            peer.transcript = Transcript()  # binds as if this were the first
        hellos.append(peer.offer(data))
        return hellos[-1]

    peer.alter[MessageType.CLIENT_HELLO] = rebind
    assert_refused(peer.run(peer.script(hello_retry=True)), Alert.DECRYPT_ERROR, Cause.PSK_MISMATCH)


@pytest.mark.parametrize(
    ("second", "alert", "cause"),
    [
        ((), Alert.HANDSHAKE_FAILURE, Cause.NO_COMMON_PARAMETERS),
        ((OTHER,), Alert.UNKNOWN_PSK_IDENTITY, Cause.UNKNOWN_PSK),
        ((SHA384,), Alert.UNKNOWN_PSK_IDENTITY, Cause.UNKNOWN_PSK),
    ],
)
def test_the_key_that_was_chosen_has_to_be_in_the_second_hello(
    second: tuple[PreSharedKey, ...], alert: Alert, cause: Cause
) -> None:
    peer = psk_client(None, SHA256, OTHER, share_sent=False)
    hellos: list[int] = []

    def change(data: bytes) -> bytes:
        hellos.append(1)
        if len(hellos) == 2:
            peer.keys = second
        if not peer.keys:
            peer.set_extension(Type.PRE_SHARED_KEY, None)
            return peer.hello.write()
        return peer.offer(data)

    peer.alter[MessageType.CLIENT_HELLO] = change
    assert_refused(peer.run(peer.script(hello_retry=True)), alert, cause)


def test_the_second_hello_does_not_change_the_choice() -> None:
    peer = psk_client(None, SHA256, OTHER, share_sent=False)

    def turn(data: bytes) -> bytes:
        written = peer.offer(data)
        peer.keys = (OTHER, SHA256)
        return written

    peer.alter[MessageType.CLIENT_HELLO] = turn
    verdict = peer.run(peer.script(hello_retry=True))
    assert isinstance(verdict.event, HandshakeCompleted)
    assert verdict.event.psk_identity == SHA256.identity
    assert dict(peer.server_hello.extensions)[Type.PRE_SHARED_KEY] == b"\0\1"


def test_a_server_in_good_order() -> None:
    for chosen, key in enumerate((OTHER, SHA384, SHA256)):
        peer = psk_server(offering(OTHER, SHA384, SHA256), chosen=chosen, key=key)
        verdict = peer.run(peer.script())
        assert isinstance(verdict.event, HandshakeCompleted)
        assert verdict.event.psk_identity == key.identity
        assert peer.order == [MessageType.CLIENT_HELLO, MessageType.FINISHED]


@pytest.mark.parametrize(
    ("changes", "alert"),
    [
        ({"chosen": 2}, Alert.ILLEGAL_PARAMETER),
        ({"chosen": 0xFFFF}, Alert.ILLEGAL_PARAMETER),
        ({"chosen": b""}, Alert.DECODE_ERROR),
        ({"chosen": b"\0"}, Alert.DECODE_ERROR),
        ({"chosen": b"\0\0\0"}, Alert.DECODE_ERROR),
        ({"chosen": 1}, Alert.ILLEGAL_PARAMETER),
        ({"chosen": 0, "suite": 0x1302}, Alert.ILLEGAL_PARAMETER),
        ({"chosen": 0, "key_share": False}, Alert.ILLEGAL_PARAMETER),
    ],
)
def test_server_hellos_that_are_refused(changes: dict[str, Any], alert: Alert) -> None:
    peer = psk_server(offering(SHA256, SHA384), **changes)
    assert_refused(peer.run(peer.script()), alert)
    assert MessageType.FINISHED not in peer.received


@pytest.mark.parametrize("hello_retry", [False, True])
def test_a_server_that_goes_on_with_a_certificate_is_refused(hello_retry: bool) -> None:
    group = "secp384r1" if hello_retry else "x25519"
    peer = psk_server(chosen=None, group=group)
    peer.psk = None
    script = ServerAdversary.script(peer, hello_retry=hello_retry)
    verdict = peer.run(script)
    assert_refused(verdict, Alert.HANDSHAKE_FAILURE, Cause.NO_COMMON_PARAMETERS)
    assert "without any of our pre-shared keys" in verdict.reason
    assert MessageType.FINISHED not in peer.received


@pytest.mark.parametrize("kind", [MessageType.CERTIFICATE, MessageType.CERTIFICATE_REQUEST])
def test_a_certificate_besides_the_key_is_refused(kind: MessageType) -> None:
    peer = psk_server()
    script = peer.script()
    unwanted = (
        messages.certificate(peer.chain)
        if kind is MessageType.CERTIFICATE
        else messages.certificate_request(peer.request_extensions)
    )
    at = next(position for position, step in enumerate(script) if step.name == "finished")
    verdict = peer.run([*script[:at], sends(unwanted, in_transcript=True), *script[at:]])
    assert_refused(verdict, Alert.UNEXPECTED_MESSAGE)
    assert verdict.protection is Protection.HANDSHAKE


def test_a_server_that_has_another_key_is_found_out() -> None:
    """It can't have checked the binder; its records don't open."""
    peer = psk_server(key=replace(SHA256, secret=b"another"))
    verdict = peer.run(peer.script())
    assert isinstance(verdict.event, HandshakeFailed)
    assert verdict.event.failure.alert is Alert.BAD_RECORD_MAC


def test_pre_shared_key_has_no_place_in_a_retry() -> None:
    peer = psk_server(group="secp384r1")
    peer.change_hello = lambda hello: hello.extensions.append((Type.PRE_SHARED_KEY, b""))
    assert_refused(peer.run(peer.script(hello_retry=True)), Alert.ILLEGAL_PARAMETER)


def test_a_certificate_client_refuses_a_key_that_it_did_not_offer() -> None:
    peer = ServerAdversary(client_engine(), identity())
    peer.change_hello = lambda hello: hello.extensions.append((Type.PRE_SHARED_KEY, b"\0\0"))
    assert_refused(peer.run(peer.script()), Alert.UNSUPPORTED_EXTENSION)


@pytest.mark.parametrize(
    ("identity", "secret", "hash_name", "said"),
    [
        (b"", b"x" * 32, "sha256", "not 0"),
        (b"x" * 65536, b"x" * 32, "sha256", "not 65536"),
        (b"x", b"", "sha256", "not empty"),
        (b"x", b"x" * 32, "sha512", "'sha512'"),
    ],
)
def test_a_key_that_tls_can_not_express_is_an_error_of_the_caller(
    identity: bytes, secret: bytes, hash_name: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        PreSharedKey(identity=identity, secret=secret, hash_name=hash_name)
