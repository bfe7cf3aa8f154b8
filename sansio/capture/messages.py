"""What a recorded record says: TLS 1.3 handshake messages and alerts taken apart into facts for people.

`MessageStream` puts the handshake messages of one direction together, `dissect_message_untrusted` takes one apart, and
`dissect_record_untrusted` does so for alerts and ChangeCipherSpec.  A `Dissection` holds names and texts only.  It is an
onlooker's view and no judgement: the engine has judged already, and a failed handshake's transcript may well hold what
broke it.  So nothing is raised: what is malformed is shown as far as it made sense, and `defect` says where that ends.

Lengths have to fit exactly, so every loop advances; lists are cut at `MAX_LISTED` and texts by `printable`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509

from ..status import Alert
from ..tls.certificates import UNREADABLE, load_certificate_untrusted, name_text, printable, quiet
from ..tls.extensions import HELLO_RETRY_RANDOM, ExtensionType
from ..tls.primitives import GROUPS_BY_NUMBER, SCHEMES_BY_NUMBER, SUITES_BY_NUMBER
from ..tls.psk import shown_identity
from ..tls.records import HEADER_LENGTH, ContentType, HandshakeType, handshake_type_name, plain_alert

MAX_LISTED: Final = 32
"""Values of one list that are shown: a list of 32,000 suites says no more than its beginning."""

_HEADER: Final = 4  # RFC 8446, 4: the type and a length of three bytes

_SHOWN_BYTES: Final = 16
_RECORD_NAMES: Final[Mapping[int, str]] = {kind: kind.name.lower().replace("_", " ") for kind in ContentType}

_VERSIONS: Final = {
    0x0300: "SSL 3.0",
    0x0301: "TLS 1.0",
    0x0302: "TLS 1.1",
    0x0303: "TLS 1.2",
    0x0304: "TLS 1.3",
}
_PSK_MODES: Final = {0: "psk_ke", 1: "psk_dhe_ke"}  # RFC 8446, 4.2.9
_ALERT_LEVELS: Final = {1: "warning", 2: "fatal"}  # RFC 8446, 6
_SUITES: Final = {number: suite.name for number, suite in SUITES_BY_NUMBER.items()} | {
    0x00FF: "EMPTY_RENEGOTIATION_INFO_SCSV",  # RFC 5746, 3.3
}
_GROUPS: Final = {number: group.name for number, group in GROUPS_BY_NUMBER.items()} | {
    30: "x448",
    256: "ffdhe2048",
    257: "ffdhe3072",
    258: "ffdhe4096",
    259: "ffdhe6144",
    260: "ffdhe8192",
    0x11EB: "SecP256r1MLKEM768",
    0x11EC: "X25519MLKEM768",
    0x11ED: "SecP384r1MLKEM1024",
}
"""This agent's groups, and those that peers offer beside them (the IANA registry of TLS Supported Groups)."""
_SCHEMES: Final = {number: scheme.name for number, scheme in SCHEMES_BY_NUMBER.items()} | {
    0x0201: "rsa_pkcs1_sha1",
    0x0203: "ecdsa_sha1",
    0x0401: "rsa_pkcs1_sha256",
    0x0501: "rsa_pkcs1_sha384",
    0x0601: "rsa_pkcs1_sha512",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One fact about a message.

    Attributes:
        name: What it is about, such as "suites".
        values: Its values, in order.
    """

    name: str
    values: tuple[str, ...]


def detail(name: str, values: Iterable[str]) -> Detail:
    """Make a detail of at most `MAX_LISTED` values, and say how many more there are."""
    shown = tuple(values)
    more = (f"and {len(shown) - MAX_LISTED} more",) if len(shown) > MAX_LISTED else ()
    return Detail(name=name, values=shown[:MAX_LISTED] + more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dissection:
    """One message or record, taken apart.

    Attributes:
        name: Its name in RFC 8446; HelloRetryRequest is told from ServerHello.
        details: What matters in it, as far as it could be read.
        certificates: The DER certificates in it, the leaf first, as far as they could be read.
        bad: Does it tell of a failure, as an alert does?
        defect: What is malformed about it; None if nothing is.
    """

    name: str
    details: tuple[Detail, ...] = ()
    certificates: tuple[bytes, ...] = ()
    bad: bool = False
    defect: str | None = None


class MessageStream:
    """The handshake messages of one direction, which records cut anywhere (RFC 8446, 5.1)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed_untrusted(self, fragment: bytes) -> list[bytes]:
        """Take a record's content; return the messages that are complete with it, their headers included."""
        self._buffer += fragment
        messages: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _HEADER:
            end = start + _HEADER + int.from_bytes(self._buffer[start + 1 : start + _HEADER])
            if end > len(self._buffer):
                break
            messages.append(bytes(self._buffer[start:end]))
            start = end
        del self._buffer[:start]
        return messages

    def take_rest(self) -> bytes:
        """Return the beginning of a message that did not become complete."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


class _Malformed(Exception):  # noqa: N818 - never leaves this module
    """Says what can't be read, as a phrase."""


class _Cursor:
    """Reads a piece of a message from its front."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._offset = 0

    def __bool__(self) -> bool:
        return self._offset < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._offset + count
        if end > len(self._data):
            raise _Malformed(f"{self._where} ends {_bytes(end - len(self._data))} too early")
        taken, self._offset = self._data[self._offset : end], end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))

    def inner(self, width: int, where: str) -> "_Cursor":
        return _Cursor(self.vector(width), where)

    def numbers(self, width: int) -> Iterator[int]:
        while self:
            yield self.number(width)

    def vectors(self, width: int) -> Iterator[bytes]:
        while self:
            yield self.vector(width)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._offset)

    def finish(self) -> None:
        if self:
            raise _Malformed(f"{self._where} has {_bytes(len(self._data) - self._offset)} too many")


# Messages


def dissect_message_untrusted(message: bytes) -> Dissection:
    """Take a handshake message apart.

    Args:
        message: A message with its header, any bytes.  Raises nothing.
    """
    number = message[0] if message else 0
    name = handshake_type_name(number)
    body = _Cursor(message[_HEADER:], name)
    details: list[Detail] = []
    certificates: list[bytes] = []
    defect = _length_defect(message)
    if number == HandshakeType.SERVER_HELLO and message[6:38] == HELLO_RETRY_RANDOM:
        name = "HelloRetryRequest"
    try:
        for found in _READERS.get(number, _opaque)(body):
            if isinstance(found, Detail):
                details.append(found)
            else:
                certificates.append(found)
        body.finish()
    except _Malformed as error:
        defect = defect or str(error)
    details.sort(key=lambda found: found.name in _LONG)
    if certificates:
        details.insert(0, detail("certificates", (subject_untrusted(der) for der in certificates)))
    return Dissection(name=name, details=tuple(details), certificates=tuple(certificates), defect=defect)


def _length_defect(message: bytes) -> str | None:
    if len(message) < _HEADER:
        return f"it ends within its header, after {len(message)} bytes"
    wanted = _HEADER + int.from_bytes(message[1:_HEADER])
    return None if wanted == len(message) else f"only {len(message)} of its {wanted} bytes are there"


_LONG: Final = ("signature schemes", "certificate authorities", "also")
"""What is shown last, so that it does not hide the rest."""

_Found = Iterator[Detail | bytes]
"""What a reader finds: details, and certificates as they are."""


def _client_hello(body: _Cursor) -> _Found:
    body.take(2 + 32)  # legacy_version and random
    body.vector(1)
    yield _named("suites", body.inner(2, "cipher_suites").numbers(2), _SUITES)
    body.vector(1)
    yield from _extensions(body, _IN_CLIENT_HELLO)


def _server_hello(body: _Cursor) -> _Found:
    body.take(2)
    retry = body.take(32) == HELLO_RETRY_RANDOM
    body.vector(1)
    yield _named("suite", [body.number(2)], _SUITES)
    body.take(1)
    yield from _extensions(body, _IN_HELLO_RETRY if retry else _IN_SERVER_HELLO)


def _encrypted_extensions(body: _Cursor) -> _Found:
    yield from _extensions(body, _IN_ENCRYPTED_EXTENSIONS)


def _certificate_request(body: _Cursor) -> _Found:
    body.vector(1)
    yield from _extensions(body, _IN_CERTIFICATE_REQUEST)


def _certificate(body: _Cursor) -> _Found:
    body.vector(1)
    entries = body.inner(3, "certificate_list")
    if not entries:
        yield detail("certificates", ["none"])
    while entries:
        yield entries.vector(3)
        entries.vector(2)


def _certificate_verify(body: _Cursor) -> _Found:
    yield _named("scheme", [body.number(2)], _SCHEMES)
    yield detail("signature", [_bytes(len(body.vector(2)))])


def _finished(body: _Cursor) -> _Found:
    yield detail("verify data", [_bytes(len(body.rest()))])


def _new_session_ticket(body: _Cursor) -> _Found:
    yield detail("lifetime", [f"{body.number(4)} s"])
    body.take(4)
    body.vector(1)
    yield detail("ticket", [_bytes(len(body.vector(2)))])
    yield from _extensions(body, {})


def _key_update(body: _Cursor) -> _Found:
    yield _named("update requested", [body.number(1)], {0: "no", 1: "yes"})


def _opaque(body: _Cursor) -> _Found:
    yield detail("content", [_bytes(len(body.rest()))])


_READERS: Final[Mapping[int, Callable[[_Cursor], _Found]]] = {
    HandshakeType.CLIENT_HELLO: _client_hello,
    HandshakeType.SERVER_HELLO: _server_hello,
    HandshakeType.NEW_SESSION_TICKET: _new_session_ticket,
    HandshakeType.ENCRYPTED_EXTENSIONS: _encrypted_extensions,
    HandshakeType.CERTIFICATE: _certificate,
    HandshakeType.CERTIFICATE_REQUEST: _certificate_request,
    HandshakeType.CERTIFICATE_VERIFY: _certificate_verify,
    HandshakeType.FINISHED: _finished,
    HandshakeType.KEY_UPDATE: _key_update,
}


# Extensions

_ExtensionReader = Callable[[_Cursor], Detail]


def _extensions(body: _Cursor, readers: Mapping[int, _ExtensionReader]) -> Iterator[Detail]:
    """Read the extensions that matter, in their order, and name the others."""
    others: list[str] = []
    extensions = body.inner(2, "extensions")
    while extensions:
        number = extensions.number(2)
        name = _extension_name(number)
        content = extensions.inner(2, name)
        if number in readers:
            yield readers[number](content)
            content.finish()
        else:
            others.append(name)
    if others:
        yield detail("also", others)


def _extension_name(number: int) -> str:
    try:
        return ExtensionType(number).name.lower()
    except ValueError:
        return _number_text(number, {})


def _offered_versions(content: _Cursor) -> Detail:
    return _named("versions", content.inner(1, "the list of versions").numbers(2), _VERSIONS)


def _chosen_version(content: _Cursor) -> Detail:
    return _named("version", [content.number(2)], _VERSIONS)


def _groups(content: _Cursor) -> Detail:
    return _named("groups", content.inner(2, "the list of groups").numbers(2), _GROUPS)


def _offered_shares(content: _Cursor) -> Detail:
    shares = content.inner(2, "the list of key shares")
    return detail("key shares", _share_groups(shares))


def _share_groups(shares: _Cursor) -> Iterator[str]:
    while shares:
        yield _share(shares)


def _share(content: _Cursor) -> str:
    group = _number_text(content.number(2), _GROUPS)
    return f"{group} ({_bytes(len(content.vector(2)))})"


def _chosen_share(content: _Cursor) -> Detail:
    return detail("key share", [_share(content)])


def _wanted_group(content: _Cursor) -> Detail:
    return _named("group wanted", [content.number(2)], _GROUPS)


def _schemes(content: _Cursor) -> Detail:
    return _named("signature schemes", content.inner(2, "the list of schemes").numbers(2), _SCHEMES)


def _server_names(content: _Cursor) -> Detail:
    names = content.inner(2, "the list of names")
    return detail("server name", _host_names(names))


def _host_names(names: _Cursor) -> Iterator[str]:
    while names:
        kind = names.number(1)
        name = _text(names.vector(2))
        yield name if kind == 0 else f"type {kind}: {name}"


def _name_used(content: _Cursor) -> Detail:
    del content  # empty, RFC 6066, 3
    return detail("server name", ["was used"])


def _protocols(content: _Cursor) -> Detail:
    return detail("ALPN", map(_text, content.inner(2, "the list of protocols").vectors(1)))


def _psk_modes(content: _Cursor) -> Detail:
    return _named("PSK modes", content.inner(1, "the list of modes").numbers(1), _PSK_MODES)


def _offered_psks(content: _Cursor) -> Detail:
    identities = content.inner(2, "the list of identities")
    shown = detail("PSK identities", _identities(identities))
    binders = sum(1 for _ in content.inner(2, "the list of binders").vectors(1))
    return replace(shown, values=(*shown.values, f"({binders} binder{'s' * (binders != 1)})"))


def _identities(identities: _Cursor) -> Iterator[str]:
    while identities:
        yield shown_identity(identities.vector(2))
        identities.take(4)  # obfuscated_ticket_age


def _chosen_psk(content: _Cursor) -> Detail:
    return detail("PSK chosen", [f"number {content.number(2) + 1} of those offered"])


def _authorities(content: _Cursor) -> Detail:
    names = content.inner(2, "the list of authorities").vectors(2)
    return detail("certificate authorities", map(distinguished_name_untrusted, names))


def _cookie(content: _Cursor) -> Detail:
    return detail("cookie", [_bytes(len(content.vector(2)))])


_E = ExtensionType
_IN_CLIENT_HELLO: Final[Mapping[int, _ExtensionReader]] = {
    _E.SERVER_NAME: _server_names,
    _E.SUPPORTED_GROUPS: _groups,
    _E.SIGNATURE_ALGORITHMS: _schemes,
    _E.ALPN: _protocols,
    _E.PRE_SHARED_KEY: _offered_psks,
    _E.SUPPORTED_VERSIONS: _offered_versions,
    _E.COOKIE: _cookie,
    _E.PSK_KEY_EXCHANGE_MODES: _psk_modes,
    _E.CERTIFICATE_AUTHORITIES: _authorities,
    _E.KEY_SHARE: _offered_shares,
}
_IN_SERVER_HELLO: Final[Mapping[int, _ExtensionReader]] = {
    _E.PRE_SHARED_KEY: _chosen_psk,
    _E.SUPPORTED_VERSIONS: _chosen_version,
    _E.KEY_SHARE: _chosen_share,
}
_IN_HELLO_RETRY: Final[Mapping[int, _ExtensionReader]] = {
    _E.SUPPORTED_VERSIONS: _chosen_version,
    _E.COOKIE: _cookie,
    _E.KEY_SHARE: _wanted_group,
}
_IN_ENCRYPTED_EXTENSIONS: Final[Mapping[int, _ExtensionReader]] = {
    _E.SERVER_NAME: _name_used,
    _E.SUPPORTED_GROUPS: _groups,
    _E.ALPN: _protocols,
}
_IN_CERTIFICATE_REQUEST: Final[Mapping[int, _ExtensionReader]] = {
    _E.SIGNATURE_ALGORITHMS: _schemes,
    _E.CERTIFICATE_AUTHORITIES: _authorities,
}


# Other records


def dissect_record_untrusted(content_type: int, data: bytes) -> Dissection:
    """Take a record apart that holds no handshake message: an alert, ChangeCipherSpec, or anything else.

    Args:
        content_type: RFC 8446, 5.1.
        data: Its content, any bytes.  Raises nothing.
    """
    if content_type == ContentType.ALERT:
        return _alert(data)
    if content_type == ContentType.CHANGE_CIPHER_SPEC:
        defect = None if data == b"\x01" else f"its content is {data[:16].hex() or 'empty'}, not 01"
        return Dissection(name="ChangeCipherSpec", defect=defect)
    name = (
        "application data"
        if content_type == ContentType.APPLICATION_DATA
        else f"record of type {content_type}"
    )
    return Dissection(name=name, details=(detail("content", [_bytes(len(data))]),))


def _alert(data: bytes) -> Dissection:
    if len(data) != 2:
        return Dissection(name="alert", bad=True, defect=f"an alert has two bytes, not {len(data)}")
    level = _ALERT_LEVELS.get(data[0], f"level {data[0]}")
    return Dissection(name=f"alert {alert_name(data[1])}", details=(detail("level", [level]),), bad=True)


def alert_name(number: int) -> str:
    """RFC 8446's name of an alert, or its number."""
    try:
        return Alert(number).name.lower()
    except ValueError:
        return str(number)


def dissect_bytes_untrusted(data: bytes) -> Dissection:
    """Say what bytes are whose content nobody saw: what the engine refused, or an alert that was sent without it.

    Args:
        data: Records as they are on the wire, or anything else.  Raises nothing.
    """
    header, body = data[:HEADER_LENGTH], data[HEADER_LENGTH:]
    if header == plain_alert(Alert.CLOSE_NOTIFY)[:HEADER_LENGTH] and len(body) == 2:
        return dissect_record_untrusted(ContentType.ALERT, body)
    shown = detail("begins", [data[:_SHOWN_BYTES].hex(" "), repr(data[:_SHOWN_BYTES])[2:-1]])
    if len(header) < HEADER_LENGTH or header[0] not in _RECORD_NAMES:
        return Dissection(name="no TLS record", details=(shown,), bad=True)
    wanted = int.from_bytes(header[3:])
    defect = None if len(body) == wanted else f"{_bytes(len(body))} of {wanted} are there"
    return Dissection(
        name=f"{_RECORD_NAMES[header[0]]} record, not read", details=(shown,), bad=True, defect=defect
    )


# Names


def distinguished_name_untrusted(der: bytes) -> str:
    """Write a distinguished name in DER as RFC 4514 does; what can't be read is shown as its size."""
    try:
        with quiet():
            name = x509.load_der_x509_csr(_signing_request(der)).subject
    except UNREADABLE:
        return f"unreadable ({_bytes(len(der))})"
    return name_text(name)


_SOME_KEY: Final = bytes.fromhex("302a300506032b6570032100") + bytes(32)
_SOME_SIGNATURE: Final = bytes.fromhex("300506032b6570034100") + bytes(64)


def _signing_request(name: bytes) -> bytes:
    """A certificate signing request for a name: the smallest thing in which `cryptography` reads one.

    The key and the signature are Ed25519's by their form; nobody looks at them.
    """
    information = _sequence(b"\x02\x01\x00" + name + _SOME_KEY + b"\xa0\x00")
    return _sequence(information + _SOME_SIGNATURE)


def _sequence(content: bytes) -> bytes:
    length = len(content).to_bytes(max(1, (len(content).bit_length() + 7) // 8))
    prefix = b"" if len(content) < 0x80 else bytes([0x80 | len(length)])  # X.690, 8.1.3 and 10.1
    return b"\x30" + prefix + length + content


def subject_untrusted(der: bytes) -> str:
    """Write the subject of a certificate in DER; what can't be read is shown as its size."""
    try:
        return name_text(load_certificate_untrusted(der).subject)
    except ValueError:
        return f"unreadable ({_bytes(len(der))})"


def _named(name: str, numbers: Iterable[int], names: Mapping[int, str]) -> Detail:
    return detail(name, (_number_text(number, names) for number in numbers))


def _number_text(number: int, names: Mapping[int, str]) -> str:
    grease = number & 0x0F0F == 0x0A0A and number >> 8 == number & 0xFF  # RFC 8701, 2
    return names.get(number, "GREASE" if grease else f"{number:#06x}")


def _text(data: bytes) -> str:
    return printable(data.decode("utf-8", "backslashreplace"))


def _bytes(count: int) -> str:
    return f"{count} byte{'s' * (count != 1)}"
