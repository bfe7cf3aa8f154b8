"""Messages: what is made or parsed once for many handshakes, and what is not."""

from typing import Any

import pytest
from tlslite import messages as stock  # noqa: TID251 - the control
from tlslite.utils.codec import Parser  # noqa: TID251

from ktls_agent.sansio.status import Alert
from ktls_agent.sansio.tls import certificates, messages
from ktls_agent.sansio.tls.errors import HandshakeError
from ktls_agent.sansio.tls.extensions import ExtensionType, extension_types
from ktls_agent.sansio.tls.messages import MAX_SHARED_EXTENSION, OwnClientHello, client_hello, parse_untrusted
from ktls_agent.sansio.tls.primitives import GROUPS_BY_NAME, hkdf_expand_label
from ktls_agent.sansio.tls.records import HandshakeMessage, HandshakeType
from tests.tls.handshakes import Counter, identity

SHARE = b"\x07" * 32


def hello(alpn: tuple[bytes, ...] = (b"sunrpc",), psk_modes: tuple[str, ...] = ()) -> OwnClientHello:
    made = client_hello(
        session_id=bytearray(32),
        suites=[0x1302, 0x1301],
        server_name="server.test",
        alpn=alpn,
        groups=("x25519", "secp256r1"),
        shares=[stock.KeyShareEntry().create(GROUPS_BY_NAME["x25519"].number, bytearray(SHARE))],
        psk_modes=psk_modes,
        psks=[(b"id", bytes(32), "sha384")] if psk_modes else (),
    )
    made.random = bytearray(Counter()(32))
    return made


def parse(data: bytes) -> Any:
    return parse_untrusted(HandshakeMessage(HandshakeType.CLIENT_HELLO, data), None)


@pytest.mark.parametrize("psk_modes", [(), ("psk_dhe_ke",), ("psk_dhe_ke", "psk_ke")])
@pytest.mark.parametrize("alpn", [(), (b"sunrpc",), (b"a", b"b")])
def test_our_hello_is_what_tlslite_would_write(alpn: tuple[bytes, ...], psk_modes: tuple[str, ...]) -> None:
    ours = hello(alpn, psk_modes)
    assert ours.write() == stock.ClientHello._write(ours)
    again = stock.ClientHello().parse(Parser(bytearray(ours.write()[1:])))
    assert again.write() == ours.write()


def test_a_parsed_hello_is_what_tlslite_would_parse() -> None:
    data = hello(psk_modes=("psk_dhe_ke",)).write()
    ours, theirs = parse(data), stock.ClientHello().parse(Parser(bytearray(data[1:])))
    assert extension_types(ours) == extension_types(theirs)
    assert ours == theirs


def test_what_every_client_says_is_parsed_once() -> None:
    first, second = parse(hello().write()), parse(hello().write())
    for number, shared in (
        (ExtensionType.SUPPORTED_GROUPS, True),
        (ExtensionType.SIGNATURE_ALGORITHMS, True),
        (ExtensionType.KEY_SHARE, False),
    ):
        found = [message.getExtension(number) for message in (first, second)]
        assert (found[0] is found[1]) is shared


def test_what_is_long_is_not_kept() -> None:
    long = tuple(bytes([65 + number]) * 200 for number in range(MAX_SHARED_EXTENSION // 200 + 1))
    first, second = parse(hello(long).write()), parse(hello(long).write())
    found = [message.getExtension(ExtensionType.ALPN) for message in (first, second)]
    assert found[0].protocol_names == found[1].protocol_names == [bytearray(name) for name in long]
    assert found[0] is not found[1]


def test_what_is_malformed_is_refused_each_time() -> None:
    data = bytearray(hello().write())
    at = data.index(bytes.fromhex("000a 0006 0004"))  # supported_groups: a list of three bytes
    data[at + 5] = 3
    for _ in range(2):
        with pytest.raises(HandshakeError) as raised:
            parse(bytes(data))
        assert raised.value.failure.alert is Alert.DECODE_ERROR


def test_a_list_beyond_its_message_is_refused() -> None:
    for length in (2, 3):  # cipher suites: as many bytes as are there, and no whole number of suites
        body = b"\x03\x03" + bytes(32) + b"\x00" + length.to_bytes(2) + b"\x13"
        with pytest.raises(HandshakeError) as raised:
            parse(b"\x01" + len(body).to_bytes(3) + body)
        assert raised.value.failure.alert is Alert.DECODE_ERROR


def test_a_certificate_is_parsed_once_unless_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    der = identity().chain[0]
    load = certificates.load_certificate_untrusted
    assert load(der) is load(bytes(bytearray(der)))
    monkeypatch.setattr(certificates, "MAX_KEPT_BYTES", len(der) - 1)
    assert load(der) is not load(der)
    assert load(der) == load(der)


def test_what_is_kept_is_bounded() -> None:
    assert certificates._load_kept.cache_info().maxsize == certificates.MAX_KEPT
    assert messages._parse_shared.cache_info().maxsize == messages.MAX_SHARED_EXTENSIONS


def test_a_label_expands_to_one_hash_at_most() -> None:
    assert len(hkdf_expand_label(bytes(32), b"key", b"", 32, "sha256")) == 32
    with pytest.raises(ValueError, match="33 bytes are more than one sha256"):
        hkdf_expand_label(bytes(32), b"key", b"", 33, "sha256")
