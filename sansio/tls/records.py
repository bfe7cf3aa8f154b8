"""The TLS 1.3 record layer (RFC 8446, 5), both directions, as a handshake needs it.

`RecordReader` is fed bytes, says how many it wants, and gives handshake messages: it never asks for a byte
beyond the record it is in, since what follows the handshake's last record belongs to the kernel.  It
drops what RFC 8446 wants dropped (ChangeCipherSpec in its place, early data that was refused) and raises
HandshakeError for everything else that is not a handshake message, an alert from the peer included.
`RecordWriter` fragments, protects and collects what is to be sent.
"""

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from ..status import Alert, Cause, Failure
from ..steps import Plaintext, Trace, no_trace
from .errors import HandshakeError, violation
from .primitives import TAG_LENGTH, RecordKey

HEADER_LENGTH: Final = 5
MAX_PLAINTEXT: Final = 2**14  # RFC 8446, 5.1
MAX_CIPHERTEXT: Final = 2**14 + 256  # RFC 8446, 5.2
MAX_INNER_PLAINTEXT: Final = 2**14 + 1  # RFC 8446, 5.4: the content type is counted

MAX_CHANGE_CIPHER_SPECS: Final = 8
"""A peer sends one, two with a HelloRetryRequest; without a bound it could keep us busy with them for ever."""

MAX_HANDSHAKE_MESSAGE: Final = 4 + 131_396
"""The largest ClientHello that RFC 8446, 4.1.2 can express: nothing legal is refused, nothing larger is kept."""

MAX_HANDSHAKE_BYTES: Final = 2 * MAX_HANDSHAKE_MESSAGE
"""All bytes of a handshake together, two such ClientHellos: beyond that, an unauthenticated peer gets no more."""

MAX_EARLY_DATA: Final = 2**15
"""How many bytes of refused early data, headers counted, are skipped: we never told anyone that it is welcome."""

RECORD_VERSION: Final = b"\x03\x03"
FIRST_RECORD_VERSION: Final = b"\x03\x01"  # RFC 8446, 5.1: of an initial ClientHello, for old middleboxes


class ContentType(enum.IntEnum):
    """RFC 8446, 5.1."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


class HandshakeType(enum.IntEnum):
    """RFC 8446, 4."""

    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    NEW_SESSION_TICKET = 4
    END_OF_EARLY_DATA = 5
    ENCRYPTED_EXTENSIONS = 8
    CERTIFICATE = 11
    CERTIFICATE_REQUEST = 13
    CERTIFICATE_VERIFY = 15
    FINISHED = 20
    KEY_UPDATE = 24
    MESSAGE_HASH = 254


_BEFORE_NEW_KEYS: Final = frozenset(
    {HandshakeType.CLIENT_HELLO, HandshakeType.SERVER_HELLO, HandshakeType.FINISHED}
)
"""A change of keys, or the other side's turn, follows: such a message ends its record (RFC 8446, 5.1)."""

_EXTENSIONS: Final = 2 + 0xFFFF
_MAX_BODIES: Final[dict[int, int]] = {
    HandshakeType.SERVER_HELLO: 2 + 32 + 1 + 32 + 2 + 1 + _EXTENSIONS,
    HandshakeType.ENCRYPTED_EXTENSIONS: _EXTENSIONS,
    HandshakeType.CERTIFICATE_REQUEST: 1 + 255 + _EXTENSIONS,
    HandshakeType.CERTIFICATE_VERIFY: 2 + 2 + 0xFFFF,
    HandshakeType.FINISHED: 48,
}
"""What a message can hold at most: a longer one is malformed, and not waited for."""


def handshake_type_name(number: int) -> str:
    """The RFC's name of a handshake message, or its number."""
    try:
        return HandshakeType(number).name.title().replace("_", "")
    except ValueError:
        return f"message type {number}"


def _misplaced(number: int, expected: Collection[int]) -> str:
    wanted = " or ".join(handshake_type_name(kind) for kind in expected)
    return f"{handshake_type_name(number)} came where {wanted} was due"


_CONTENT_TYPES: Final = frozenset(ContentType)


@dataclass(frozen=True, slots=True)
class HandshakeMessage:
    """A handshake message as it came: its type, and all its bytes with the four of the header."""

    message_type: int
    data: bytes


def plain_alert(alert: Alert) -> bytes:
    """An unprotected record with a fatal alert, for a handshake that ends before there is an engine."""
    writer = RecordWriter(is_client=False)
    writer.write(ContentType.ALERT, bytes([2, alert]))
    return writer.take()


class RecordWriter:
    """Fragments, protects and collects what is to be sent."""

    def __init__(self, *, is_client: bool, trace: Trace = no_trace) -> None:
        self._trace = trace
        self._output = bytearray()
        self._version = FIRST_RECORD_VERSION if is_client else RECORD_VERSION
        self.key: RecordKey | None = None

    def write(self, content_type: int, data: bytes) -> None:
        """Send `data` in as many records as it takes, under the current key."""
        self._trace(Plaintext(outgoing=True, content_type=content_type, data=data))
        for start in range(0, len(data), MAX_PLAINTEXT):
            self._write_record(content_type, data[start : start + MAX_PLAINTEXT])
        self._version = RECORD_VERSION

    def _write_record(self, content_type: int, fragment: bytes) -> None:
        # ChangeCipherSpec is never protected (RFC 8446, 5).
        if self.key is None or content_type == ContentType.CHANGE_CIPHER_SPEC:
            header = bytes([content_type]) + self._version + len(fragment).to_bytes(2)
            self._output += header + fragment
            return
        length = len(fragment) + 1 + TAG_LENGTH
        header = bytes([ContentType.APPLICATION_DATA]) + RECORD_VERSION + length.to_bytes(2)
        self._output += header + self.key.seal(fragment + bytes([content_type]), header)

    @property
    def pending(self) -> bool:
        """Is anything waiting for `take`?"""
        return bool(self._output)

    def take(self) -> bytes:
        """Everything written since the last call."""
        data = bytes(self._output)
        self._output.clear()
        return data


class RecordReader:
    """Turns a peer's bytes into handshake messages."""

    def __init__(self, *, trace: Trace = no_trace) -> None:
        self._trace = trace
        self._input = bytearray()
        self._handshake = bytearray()
        self._handshake_bytes = 0
        self._change_cipher_specs = 0
        self._early_data_left = 0
        self._first_message_seen = False
        self.hello_sent = False
        self.key: RecordKey | None = None

    # Input

    def feed_untrusted(self, data: bytes) -> None:
        """Take bytes from the peer; `next_message_untrusted` judges them."""
        self._input += data

    def bytes_wanted(self) -> int:
        """How many bytes complete the header, or the record, that is being received."""
        if len(self._input) < HEADER_LENGTH:
            return HEADER_LENGTH - len(self._input)
        return max(0, HEADER_LENGTH + self._body_length() - len(self._input))

    def _body_length(self) -> int:
        return int.from_bytes(self._input[3:HEADER_LENGTH])

    @property
    def unused(self) -> int:
        """How many bytes were fed, but not used."""
        return len(self._input)

    def take_rest(self) -> bytes:
        """The bytes that were fed, but not used."""
        data = bytes(self._input)
        self._input.clear()
        return data

    def skip_early_data(self) -> None:
        """The client offered early data, which is refused: skip it (RFC 8446, 4.2.10)."""
        self._early_data_left = MAX_EARLY_DATA

    def change_key(self, key: RecordKey) -> None:
        """Go over to the next key; no message straddles the change, as `_take_message` sees to."""
        self.key = key

    # Handshake messages

    def next_message_untrusted(self, expected: Collection[int]) -> HandshakeMessage | None:
        """The next handshake message, which has to be of one of the `expected` types; None if more bytes are wanted.

        Raises:
            HandshakeError: The peer sent an alert, or what has no place here.
        """
        while (message := self._take_message(expected)) is None:
            record = self._take_record()
            if record is None:
                return None
            self._receive_record(*record)
        return message

    def _take_message(self, expected: Collection[int]) -> HandshakeMessage | None:
        # The type is judged as soon as it is there: what is not wanted is not waited for.
        if self._handshake and self._handshake[0] not in expected:
            raise violation(Alert.UNEXPECTED_MESSAGE, _misplaced(self._handshake[0], expected))
        if len(self._handshake) < 4:
            return None
        length = self._message_length()
        if len(self._handshake) < length:
            return None
        data = bytes(self._handshake[:length])
        del self._handshake[:length]
        if self._handshake and data[0] in _BEFORE_NEW_KEYS:
            raise violation(
                Alert.UNEXPECTED_MESSAGE, f"{handshake_type_name(data[0])} is not the last in its record"
            )
        self._first_message_seen = True
        return HandshakeMessage(data[0], data)

    def _message_length(self) -> int:
        """The length of the message that is being received, with its header."""
        kind, body = self._handshake[0], int.from_bytes(self._handshake[1:4])
        if 4 + body > MAX_HANDSHAKE_MESSAGE:
            raise violation(Alert.ILLEGAL_PARAMETER, f"handshake message of {4 + body} bytes")
        if body > _MAX_BODIES.get(kind, body):
            raise violation(Alert.DECODE_ERROR, f"{handshake_type_name(kind)} of {4 + body} bytes")
        return 4 + body

    def _receive_record(self, content_type: int, fragment: bytes) -> None:
        if not fragment:
            raise violation(Alert.UNEXPECTED_MESSAGE, f"empty record of type {content_type}")
        if content_type == ContentType.ALERT:
            raise _peer_alert(fragment)
        if content_type != ContentType.HANDSHAKE:
            raise violation(Alert.UNEXPECTED_MESSAGE, f"record of type {content_type} during the handshake")
        self._handshake_bytes += len(fragment)
        if self._handshake_bytes > MAX_HANDSHAKE_BYTES:
            raise violation(Alert.ILLEGAL_PARAMETER, f"more than {MAX_HANDSHAKE_BYTES} bytes of handshake")
        self._handshake += fragment

    # Records

    def _take_record(self) -> tuple[int, bytes] | None:
        """The next record's content type and plaintext; None if more bytes are wanted."""
        while True:
            self._check_header()
            if self.bytes_wanted():
                return None
            end = HEADER_LENGTH + self._body_length()
            header, body = bytes(self._input[:HEADER_LENGTH]), bytes(self._input[HEADER_LENGTH:end])
            del self._input[:end]
            record = self._open_record(header, body)
            if record is not None:
                self._trace(Plaintext(outgoing=False, content_type=record[0], data=record[1]))
                return record

    def _check_header(self) -> None:
        # The version is not looked at: RFC 8446, 5.1 wants it ignored for all purposes.
        if self._input and self._input[0] not in _CONTENT_TYPES:
            raise violation(
                Alert.UNEXPECTED_MESSAGE, f"not a TLS record: it begins with byte {self._input[0]}"
            )
        if len(self._input) < HEADER_LENGTH:
            return
        protected = self._input[0] == ContentType.APPLICATION_DATA
        limit = MAX_CIPHERTEXT if protected else MAX_PLAINTEXT
        if self._body_length() > limit:
            raise violation(Alert.RECORD_OVERFLOW, f"record of {self._body_length()} bytes")

    def _open_record(self, header: bytes, body: bytes) -> tuple[int, bytes] | None:
        """The record's content type and plaintext; None if it is to be dropped."""
        content_type = header[0]
        if content_type == ContentType.CHANGE_CIPHER_SPEC:
            self._drop_change_cipher_spec(body)
            self._trace(Plaintext(outgoing=False, content_type=content_type, data=body))
            return None
        if self.key is None:
            return self._open_plain(content_type, body)
        if content_type == ContentType.APPLICATION_DATA:
            return self._open_protected(self.key, header, body)
        if content_type == ContentType.ALERT and self.key.sequence == 0:
            return content_type, body  # from a peer that could not make keys of our hello
        raise violation(Alert.UNEXPECTED_MESSAGE, f"unprotected record of type {content_type}")

    def _open_plain(self, content_type: int, body: bytes) -> tuple[int, bytes] | None:
        if content_type == ContentType.APPLICATION_DATA and self._skipped_as_early_data(body):
            return None
        self._early_data_left = 0  # the second ClientHello comes without (RFC 8446, 4.2.10)
        return content_type, body

    def _drop_change_cipher_spec(self, body: bytes) -> None:
        """RFC 8446, 5: dropped between the first ClientHello and the peer's Finished, if it is the byte 1."""
        if body != b"\x01" or not (self.hello_sent or self._first_message_seen):
            raise violation(Alert.UNEXPECTED_MESSAGE, "ChangeCipherSpec of wrong content or in a wrong place")
        if self._handshake:
            raise violation(Alert.UNEXPECTED_MESSAGE, "ChangeCipherSpec within a handshake message")
        self._change_cipher_specs += 1
        if self._change_cipher_specs > MAX_CHANGE_CIPHER_SPECS:
            raise violation(
                Alert.UNEXPECTED_MESSAGE, f"more than {MAX_CHANGE_CIPHER_SPECS} ChangeCipherSpecs"
            )

    def _open_protected(self, key: RecordKey, header: bytes, body: bytes) -> tuple[int, bytes] | None:
        inner = key.open_untrusted(body, header)
        if inner is None:
            if self._skipped_as_early_data(body):
                return None
            raise violation(Alert.BAD_RECORD_MAC, "record that does not decrypt")
        self._early_data_left = 0
        if len(inner) > MAX_INNER_PLAINTEXT:
            raise violation(Alert.RECORD_OVERFLOW, f"protected record with {len(inner)} bytes inside")
        content = inner.rstrip(b"\x00")
        if not content:
            raise violation(Alert.UNEXPECTED_MESSAGE, "protected record without a content type")
        return content[-1], content[:-1]

    def _skipped_as_early_data(self, body: bytes) -> bool:
        cost = HEADER_LENGTH + len(body)
        if cost > self._early_data_left:
            return False
        self._early_data_left -= cost
        return True


_CERTIFICATE_ALERTS: Final = frozenset(
    {
        Alert.BAD_CERTIFICATE,
        Alert.UNSUPPORTED_CERTIFICATE,
        Alert.CERTIFICATE_REVOKED,
        Alert.CERTIFICATE_EXPIRED,
        Alert.CERTIFICATE_UNKNOWN,
        Alert.UNKNOWN_CA,
        Alert.ACCESS_DENIED,
    }
)


_ALERT_REASONS: Final = {
    Alert.CERTIFICATE_REQUIRED: "the peer wants a certificate and we presented none (alert certificate_required); "
    "configure one",
    Alert.CLOSE_NOTIFY: "the peer closed the connection during the handshake (alert close_notify)",
    Alert.DECRYPT_ERROR: "the peer could not verify what we sent (alert decrypt_error); with a pre-shared key, the two "
    "sides hold different keys of one identity",
    Alert.UNKNOWN_PSK_IDENTITY: "the peer knows no pre-shared key that we offered (alert unknown_psk_identity); insert "
    "the key there",
}


def _peer_alert(fragment: bytes) -> HandshakeError:
    if len(fragment) != 2:
        return violation(Alert.DECODE_ERROR, f"alert record of {len(fragment)} bytes")
    try:
        alert = Alert(fragment[1])
    except ValueError:
        return HandshakeError(
            Failure(cause=Cause.PEER_ALERT, reason=f"the peer sent the unknown alert {fragment[1]}")
        )
    return HandshakeError(Failure(cause=Cause.PEER_ALERT, reason=_alert_reason(alert), alert=alert))


def _alert_reason(alert: Alert) -> str:
    name = alert.name.lower()
    if alert in _CERTIFICATE_ALERTS:
        return f"the peer refused our certificate (alert {name}); its log may say more"
    return _ALERT_REASONS.get(alert, f"the peer ended the handshake (alert {name})")
