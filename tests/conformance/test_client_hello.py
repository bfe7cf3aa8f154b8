"""ClientHello and its repetition (RFC 8446, 4.1.2, 4.2 and 9.2), against a server."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from ktls_agent.sansio.status import Alert
from ktls_agent.sansio.tls.parameters import HandshakeCompleted
from tests.conformance.situations import anonymous_peer, judged, psk_client_peer, refused
from tests.peers import messages
from tests.peers.adversary import Protection, after, before, sends_raw
from tests.peers.messages import MessageType, Type

X25519, P256, P384, P521 = 29, 23, 24, 25
P256_POINT: Final = b"\x04" + bytes(64)
LOW_ORDER: Final = tuple(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""Each makes an X25519 result of zeros (RFC 7748, 6.1)."""

Change = Callable[[Any], None]


def extension(kind: int, content: bytes | None) -> Change:
    return lambda peer: peer.set_extension(kind, content)


def field(name: str, value: Any) -> Change:
    return lambda peer: setattr(peer, "hello", replace(peer.hello, **{name: value}))


def shares(offered: Sequence[int], *sent: tuple[int, bytes]) -> Change:
    def change(peer: Any) -> None:
        peer.set_extension(*messages.supported_groups(*offered))
        peer.set_extension(*messages.client_shares(*sent))

    return change


def mine(offered: Sequence[int], *groups: int) -> Change:
    """The honest X25519 share under these groups."""
    return lambda peer: shares(offered, *((group, peer.share) for group in groups))(peer)


REFUSED: Final[dict[str, tuple[Change, Alert]]] = {
    "session id of 33 bytes": (field("session_id", bytes(33)), Alert.DECODE_ERROR),
    "no suites": (field("cipher_suites", []), Alert.DECODE_ERROR),
    "unknown suites": (field("cipher_suites", [0x00FF, 0x5600, 0x1306, 0xC02B]), Alert.HANDSHAKE_FAILURE),
    "suites of TLS 1.2": (field("cipher_suites", [0xC02B, 0xC02F, 0x009C]), Alert.HANDSHAKE_FAILURE),
    "compression": (field("compression", b"\1"), Alert.ILLEGAL_PARAMETER),
    "compression too": (field("compression", b"\0\1"), Alert.ILLEGAL_PARAMETER),
    "compression before null": (field("compression", b"\1\0"), Alert.ILLEGAL_PARAMETER),
    "null compression twice": (field("compression", b"\0\0"), Alert.ILLEGAL_PARAMETER),
    "no compression method": (field("compression", b""), Alert.ILLEGAL_PARAMETER),
    "SSL 3.0": (field("version", 0x0300), Alert.PROTOCOL_VERSION),
    "SSL 2.0": (field("version", 0x0200), Alert.PROTOCOL_VERSION),
    "version zero": (field("version", 0), Alert.PROTOCOL_VERSION),
    "no supported_versions": (extension(Type.SUPPORTED_VERSIONS, None), Alert.PROTOCOL_VERSION),
    "no extensions": (field("extensions", []), Alert.PROTOCOL_VERSION),
    "TLS 1.2": (extension(*messages.client_versions(0x0303, 0x0302)), Alert.PROTOCOL_VERSION),
    "drafts": (extension(*messages.client_versions(0x7F17, 0x7F1C)), Alert.PROTOCOL_VERSION),
    "TLS 1.4": (extension(*messages.client_versions(0x0305)), Alert.PROTOCOL_VERSION),
    "no versions": (extension(Type.SUPPORTED_VERSIONS, b"\0"), Alert.DECODE_ERROR),
    "half a version": (extension(Type.SUPPORTED_VERSIONS, b"\3\3\4\3"), Alert.DECODE_ERROR),
    "no supported_groups": (extension(Type.SUPPORTED_GROUPS, None), Alert.MISSING_EXTENSION),
    "no key_share": (extension(Type.KEY_SHARE, None), Alert.MISSING_EXTENSION),
    "no signature_algorithms": (extension(Type.SIGNATURE_ALGORITHMS, None), Alert.MISSING_EXTENSION),
    "no groups": (extension(Type.SUPPORTED_GROUPS, b"\0\0"), Alert.DECODE_ERROR),
    "half a group": (extension(Type.SUPPORTED_GROUPS, b"\0\3\0\x1d\0"), Alert.DECODE_ERROR),
    "no schemes": (extension(Type.SIGNATURE_ALGORITHMS, b"\0\0"), Alert.DECODE_ERROR),
    "unknown schemes": (extension(*messages.signature_algorithms(0xFFFF, 0x0A0A)), Alert.HANDSHAKE_FAILURE),
    "PKCS#1 alone": (extension(*messages.signature_algorithms(0x0401, 0x0501)), Alert.HANDSHAKE_FAILURE),
    "SHA-1 alone": (extension(*messages.signature_algorithms(0x0203, 0x0201)), Alert.HANDSHAKE_FAILURE),
    "schemes of other keys": (
        extension(*messages.signature_algorithms(0x0804, 0x0503)),
        Alert.HANDSHAKE_FAILURE,
    ),
    "FFDHE alone": (shares([0x100, 0x101], (0x100, bytes(256))), Alert.HANDSHAKE_FAILURE),
    "unknown groups alone": (shares([0x1FC, 0x6399]), Alert.HANDSHAKE_FAILURE),
    "share of a group not offered": (mine([X25519], X25519, P384), Alert.ILLEGAL_PARAMETER),
    "two shares of a group": (mine([X25519, P256], X25519, X25519), Alert.ILLEGAL_PARAMETER),
    "a group twice": (mine([X25519, X25519], X25519), Alert.ILLEGAL_PARAMETER),
    "shares in another order": (
        shares([X25519, P256], (P256, P256_POINT), (X25519, b"x" * 32)),
        Alert.ILLEGAL_PARAMETER,
    ),
    "empty share": (shares([X25519], (X25519, b"")), Alert.DECODE_ERROR),
    "short share": (shares([X25519], (X25519, b"x" * 31)), Alert.ILLEGAL_PARAMETER),
    "long share": (shares([X25519], (X25519, b"x" * 33)), Alert.ILLEGAL_PARAMETER),
    "point at infinity": (shares([P256], (P256, b"\0")), Alert.ILLEGAL_PARAMETER),
    "point not on the curve": (shares([P256], (P256, b"\4" + b"\1" * 64)), Alert.ILLEGAL_PARAMETER),
    "zero point": (shares([P256], (P256, P256_POINT)), Alert.ILLEGAL_PARAMETER),
    "compressed point": (shares([P256], (P256, b"\2" + b"\1" * 32)), Alert.ILLEGAL_PARAMETER),
    "hybrid point": (shares([P256], (P256, b"\6" + b"\1" * 64)), Alert.ILLEGAL_PARAMETER),
    "point of another curve": (shares([P256], (P256, b"\4" + b"\1" * 96)), Alert.ILLEGAL_PARAMETER),
    "short point": (shares([P384], (P384, b"\4" + b"\1" * 95)), Alert.ILLEGAL_PARAMETER),
    "P-521 point not on the curve": (shares([P521], (P521, b"\4" + b"\1" * 132)), Alert.ILLEGAL_PARAMETER),
    "ALPN of another protocol": (extension(*messages.alpn(b"h2")), Alert.NO_APPLICATION_PROTOCOL),
    "ALPN without a protocol": (extension(*messages.alpn()), Alert.DECODE_ERROR),
    "ALPN with an empty protocol": (extension(*messages.alpn(b"sunrpc", b"")), Alert.DECODE_ERROR),
    "server_name without a name": (extension(Type.SERVER_NAME, b"\0\0"), Alert.DECODE_ERROR),
    "server_name of nothing": (extension(Type.SERVER_NAME, b""), Alert.DECODE_ERROR),
    "server_name with an empty name": (extension(*messages.server_name(b"")), Alert.DECODE_ERROR),
    "server_name with a zero": (extension(*messages.server_name(b"a\0.test")), Alert.ILLEGAL_PARAMETER),
    "early_data without a key": (extension(Type.EARLY_DATA, b""), Alert.ILLEGAL_PARAMETER),
    "empty psk modes": (extension(Type.PSK_KEY_EXCHANGE_MODES, b"\0"), Alert.DECODE_ERROR),
    "bytes behind it": (field("trailer", b"\0"), Alert.DECODE_ERROR),
    **{
        f"low order {n}": (shares([X25519], (X25519, point)), Alert.ILLEGAL_PARAMETER)
        for n, point in enumerate(LOW_ORDER)
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_client_hellos_that_are_refused(case: str) -> None:
    change, alert = REFUSED[case]
    peer = anonymous_peer()
    change(peer)
    refused(peer, judged(peer, peer.script()), alert, Protection.NONE)


LISTS: Final = {
    Type.SUPPORTED_GROUPS: b"\0\0",
    Type.SIGNATURE_ALGORITHMS: b"\0\0",
    Type.SIGNATURE_ALGORITHMS_CERT: b"\0\0",
    Type.ALPN: b"\0\0",
    Type.SUPPORTED_VERSIONS: b"\0",
    Type.PSK_KEY_EXCHANGE_MODES: b"\0",
    Type.PRE_SHARED_KEY: b"\0\0\0\0",
    Type.COMPRESS_CERTIFICATE: b"\0",
    Type.SERVER_NAME: b"\0\0",
}
"""Extensions that hold a list of at least one, with an empty one; key_share alone may be empty."""


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("form", ["nothing", "an empty list", "a list and more", "a list cut short"])
def test_lists_that_are_none(kind: Type, form: str) -> None:
    empty = LISTS[kind]
    content = {
        "nothing": b"",
        "an empty list": empty,
        "a list and more": empty + b"\0",
        "a list cut short": empty[:-1] + b"\x40\4\3",
    }[form]
    peer = anonymous_peer()
    peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, b"\1\1")
    peer.set_extension(kind, content)
    refused(peer, judged(peer, peer.script()), Alert.DECODE_ERROR, Protection.NONE)


TAKEN: Final[dict[str, Change]] = {
    "TLS 1.0 as legacy_version": field("version", 0x0301),
    "TLS 1.1 as legacy_version": field("version", 0x0302),
    "TLS 1.3 as legacy_version": field("version", 0x0304),
    "anything as legacy_version": field("version", 0xFEFD),
    "no session id": field("session_id", b""),
    "a short session id": field("session_id", b"s"),
    "a random of zeros": field("random", bytes(32)),
    "a random with a sentinel": field("random", bytes(24) + b"DOWNGRD\x01"),
    "many suites": field("cipher_suites", [*range(0x2000, 0x2000 + 2000), 0x1301]),
    "signalling suites": field("cipher_suites", [0x00FF, 0x5600, 0x1301]),
    "other versions too": extension(*messages.client_versions(0x0305, 0x7F1C, 0x0304, 0x0303, 0x0300)),
    "our version twice": extension(*messages.client_versions(0x0304, 0x0304)),
    "many versions": extension(*messages.client_versions(*range(0x1000, 0x1000 + 126), 0x0304)),
    "unknown groups too": mine([0x6399, 0x1FC, X25519, 0x11EC], X25519),
    "groups of TLS 1.2 with TLS 1.2": lambda peer: (
        mine([X25519, 22, 26], X25519)(peer),
        peer.set_extension(*messages.client_versions(0x0304, 0x0303)),
    )[0],
    "a share of an unknown group": lambda peer: shares(
        [0x6399, X25519], (0x6399, b"k" * 1216), (X25519, peer.share)
    )(peer),
    "an unusable share of a group that is not chosen": lambda peer: shares(
        [X25519, P256], (X25519, peer.share), (P256, b"\4x")
    )(peer),
    "unknown schemes too": extension(*messages.signature_algorithms(0xFFFF, 0x0401, 0x0403, 0x0201)),
    "many schemes": extension(*messages.signature_algorithms(*range(0x2000, 0x2000 + 8000), 0x0403)),
    "schemes for certificates": extension(*((Type.SIGNATURE_ALGORITHMS_CERT, b"\0\4\4\1\4\3"))),
    "other protocols too": extension(*messages.alpn(b"h2", b"sunrpc", b"http/1.1")),
    "no name": extension(Type.SERVER_NAME, None),
    "another kind of name": extension(*messages.server_name(b"what", 7)),
    "record_size_limit": extension(Type.RECORD_SIZE_LIMIT, b"\0\x40"),
    "compress_certificate": extension(Type.COMPRESS_CERTIFICATE, b"\6\0\1\0\2\0\3"),
    "post_handshake_auth": extension(Type.POST_HANDSHAKE_AUTH, b""),
    "a large padding": extension(Type.PADDING, bytes(40000)),
}


@pytest.mark.parametrize("case", TAKEN)
def test_client_hellos_that_are_taken(case: str) -> None:
    peer = anonymous_peer()
    TAKEN[case](peer)
    assert judged(peer, peer.script()).completed
    assert peer.server_hello.version == 0x0303
    assert peer.server_hello.session_id == peer.hello.session_id
    assert MessageType.CERTIFICATE in peer.received


def test_a_server_sends_neither_sentinel_nor_the_clients_random() -> None:
    """4.1.3: the sentinels are for servers that negotiate an older version."""
    peer = anonymous_peer()
    peer.run(peer.script())
    assert peer.server_hello.random not in (peer.hello.random, bytes(32))
    assert not peer.server_hello.random[-8:].startswith(b"DOWNGRD")


def test_a_client_that_sends_no_share_is_asked_for_one_it_offers() -> None:
    peer = anonymous_peer(share_sent=False)
    assert peer.run(peer.script(hello_retry=True)).completed
    assert peer.order[:2] == [MessageType.SERVER_HELLO, MessageType.SERVER_HELLO]


# The second ClientHello


def second(change: Change, first: Change = lambda _: None, make: Callable[..., Any] = anonymous_peer) -> Any:
    """A client that changes its second hello behind the honest changes."""
    peer = make(share_sent=False)
    first(peer)
    honest = peer.alter.get(MessageType.CLIENT_HELLO, lambda data: data)
    sent: list[int] = []

    def edit(data: bytes) -> bytes:
        sent.append(1)
        if len(sent) == 2:
            change(peer)
            data = peer.hello.write()
        return bytes(honest(data))

    peer.alter[MessageType.CLIENT_HELLO] = edit
    return peer, judged(peer, peer.script(hello_retry=True))


def reordered(peer: Any) -> None:
    peer.hello.extensions.insert(0, peer.hello.extensions.pop(2))


CHANGED: Final[dict[str, tuple[Change, Alert]]] = {
    "legacy_version": (field("version", 0x0302), Alert.ILLEGAL_PARAMETER),
    "random": (field("random", bytes(32)), Alert.ILLEGAL_PARAMETER),
    "session id": (field("session_id", b""), Alert.ILLEGAL_PARAMETER),
    "suites": (field("cipher_suites", [0x1301, 0x1303]), Alert.ILLEGAL_PARAMETER),
    "chosen suite left out": (field("cipher_suites", [0x1303]), Alert.ILLEGAL_PARAMETER),
    "compression": (field("compression", b"\0\1"), Alert.ILLEGAL_PARAMETER),
    "groups": (extension(*messages.supported_groups(X25519, P256)), Alert.ILLEGAL_PARAMETER),
    "schemes": (extension(*messages.signature_algorithms(0x0403)), Alert.ILLEGAL_PARAMETER),
    "name": (extension(*messages.server_name(b"other.test")), Alert.ILLEGAL_PARAMETER),
    "versions": (extension(*messages.client_versions(0x0304, 0x0303)), Alert.ILLEGAL_PARAMETER),
    "another extension": (extension(0x7777, b""), Alert.ILLEGAL_PARAMETER),
    "order": (reordered, Alert.ILLEGAL_PARAMETER),
    "still no share": (extension(*messages.client_shares()), Alert.ILLEGAL_PARAMETER),
    "no key_share": (extension(Type.KEY_SHARE, None), Alert.MISSING_EXTENSION),
    "share of another group": (
        shares([X25519], (P256, P256_POINT)),
        Alert.ILLEGAL_PARAMETER,
    ),
    "two shares": (
        lambda peer: peer.set_extension(*messages.client_shares((X25519, peer.share), (X25519, peer.share))),
        Alert.ILLEGAL_PARAMETER,
    ),
    "empty share": (extension(*messages.client_shares((X25519, b""))), Alert.DECODE_ERROR),
    "low order share": (extension(*messages.client_shares((X25519, bytes(32)))), Alert.ILLEGAL_PARAMETER),
    "no cookie": (extension(Type.COOKIE, None), Alert.MISSING_EXTENSION),
    "another cookie": (extension(Type.COOKIE, b"\0\1c"), Alert.ILLEGAL_PARAMETER),
    "empty cookie": (extension(Type.COOKIE, b""), Alert.ILLEGAL_PARAMETER),
    "early_data": (extension(Type.EARLY_DATA, b""), Alert.ILLEGAL_PARAMETER),
    "TLS 1.2": (extension(*messages.client_versions(0x0303)), Alert.PROTOCOL_VERSION),
}


@pytest.mark.parametrize("case", CHANGED)
def test_second_client_hellos_that_are_refused(case: str) -> None:
    change, alert = CHANGED[case]
    peer, verdict = second(change)
    refused(peer, verdict, alert, Protection.NONE)


def with_psk(peer: Any) -> None:
    peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, b"\1\1")
    peer.hello.extensions.append(messages.psk_offer([b"ticket"], [bytes(32)]))


def psk_last(peer: Any) -> None:
    peer.hello.extensions = [item for item in peer.hello.extensions if item[0] != Type.PRE_SHARED_KEY]
    peer.hello.extensions.append(messages.psk_offer([b"ticket"], [bytes(32)]))


MAY_CHANGE: Final[dict[str, tuple[Change, Change]]] = {
    "padding added": (lambda _: None, extension(Type.PADDING, bytes(9))),
    "padding left out": (extension(Type.PADDING, bytes(9)), extension(Type.PADDING, None)),
    "padding changed": (extension(Type.PADDING, bytes(9)), extension(Type.PADDING, bytes(20))),
    "keys left out": (with_psk, extension(Type.PRE_SHARED_KEY, None)),
    "keys kept": (with_psk, psk_last),
    "an old legacy_version": (field("version", 0x0301), lambda _: None),
}


@pytest.mark.parametrize("case", MAY_CHANGE)
def test_what_may_change_in_a_second_client_hello(case: str) -> None:
    """4.1.2: key_share, early_data, cookie, pre_shared_key (fewer keys, new binders) and padding."""
    first, change = MAY_CHANGE[case]
    _, verdict = second(change, first)
    assert verdict.completed


def test_keys_first_offered_in_the_second_client_hello() -> None:
    peer, verdict = second(psk_last, extension(Type.PSK_KEY_EXCHANGE_MODES, b"\1\1"))
    refused(peer, verdict, Alert.ILLEGAL_PARAMETER, Protection.NONE)


# Early data


def test_early_data_ends_with_the_second_client_hello() -> None:
    """4.2.10: what comes behind it and does not decrypt is no early data any more."""
    peer = anonymous_peer(share_sent=False)
    with_psk(peer)
    peer.hello.extensions.insert(0, (Type.EARLY_DATA, b""))
    early = sends_raw(b"\x17\x03\x03\x00\x20" + b"e" * 32)
    sent: list[int] = []

    def edit(data: bytes) -> bytes:
        sent.append(1)
        if len(sent) == 2:
            peer.set_extension(Type.EARLY_DATA, None)
            psk_last(peer)
            data = peer.hello.write()
        return data

    peer.alter[MessageType.CLIENT_HELLO] = edit
    script = after(peer.script(hello_retry=True), "client_hello", early)
    verdict = judged(peer, before(script, "finished", early))
    refused(peer, verdict, Alert.BAD_RECORD_MAC, Protection.APPLICATION)


# Pre-shared keys


OFFERS: Final[dict[str, tuple[Change, Alert]]] = {
    "no modes": (extension(Type.PSK_KEY_EXCHANGE_MODES, None), Alert.MISSING_EXTENSION),
    "empty modes": (extension(Type.PSK_KEY_EXCHANGE_MODES, b"\0"), Alert.DECODE_ERROR),
    "unknown modes alone": (extension(Type.PSK_KEY_EXCHANGE_MODES, b"\2\x0b\x2a"), Alert.HANDSHAKE_FAILURE),
    "psk_ke alone": (extension(Type.PSK_KEY_EXCHANGE_MODES, b"\1\0"), Alert.HANDSHAKE_FAILURE),
    "low order share": (shares([X25519], (X25519, bytes(32))), Alert.ILLEGAL_PARAMETER),
    "two shares of a group": (mine([X25519], X25519, X25519), Alert.ILLEGAL_PARAMETER),
    "suites of another hash": (field("cipher_suites", [0x1302]), Alert.HANDSHAKE_FAILURE),
    "SSL 3.0": (field("version", 0x0300), Alert.PROTOCOL_VERSION),
}


@pytest.mark.parametrize("case", OFFERS)
def test_offers_of_keys_that_are_refused(case: str) -> None:
    change, alert = OFFERS[case]
    peer = psk_client_peer()
    change(peer)
    refused(peer, judged(peer, peer.script()), alert, Protection.NONE)


@pytest.mark.parametrize("size", [32, 33, 48, 255])
@pytest.mark.parametrize("make", [psk_client_peer])
def test_a_wrong_binder(make: Callable[..., Any], size: int) -> None:
    """4.2.11: a binder that does not validate ends the handshake; decrypt_error as for any such MAC."""
    peer = make()
    honest = peer.alter[MessageType.CLIENT_HELLO]

    def edit(data: bytes) -> bytes:
        honest(data)
        peer.hello.extensions[-1] = messages.psk_offer([peer.keys[0].identity], [b"b" * size])
        return bytes(peer.hello.write())

    peer.alter[MessageType.CLIENT_HELLO] = edit
    refused(peer, judged(peer, peer.script()), Alert.DECRYPT_ERROR, Protection.NONE)


@pytest.mark.parametrize("make", [anonymous_peer, psk_client_peer])
def test_pre_shared_key_comes_last(make: Callable[..., Any]) -> None:
    peer = make()
    peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, b"\1\1")

    def edit(_: bytes) -> bytes:
        offer = messages.psk_offer([b"ticket"], [bytes(32)])
        peer.hello.extensions = [offer, *(item for item in peer.hello.extensions if item[0] != offer[0])]
        return bytes(peer.hello.write())

    peer.alter[MessageType.CLIENT_HELLO] = edit
    refused(peer, judged(peer, peer.script()), Alert.ILLEGAL_PARAMETER, Protection.NONE)


def test_the_largest_client_hello() -> None:
    """4.1.2: its vectors may be full; it comes in many records."""
    peer = anonymous_peer()
    peer.hello.cipher_suites = [*([0x5555] * 30000), 0x1301]
    peer.hello.extensions.append((0x7777, bytes(60000)))
    verdict = judged(peer, peer.script())
    assert isinstance(verdict.event, HandshakeCompleted)
