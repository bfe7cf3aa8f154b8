"""A TLS 1.3 handshake that others made: found in a TCP stream, followed, and checked.

`examine_stream` plays neither side.  It reads both directions with the engine's own `RecordReader`, in the order of the
protocol, so that records, messages and their order have to pass the engine's rules.  The ephemeral keys of a foreign
handshake are unknown: what is encrypted is opened with the traffic secrets of a key log, found by the
ClientHello's random.  The CertificateVerify signatures and the Finished MACs are then computed again over the
transcript as it was captured.

The result says three things apart: what was checked and is right (`checked`), what could not be checked and why
(`unchecked`), and what is wrong (`findings`).  That one side refused the other is no finding: an alert is a lawful end.
"""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from ..ktls import TLS_1_3_VERSION, KernelSecrets
from ..status import Alert, Cause
from ..tls.certificates import key_problem, load_certificate_untrusted, name_text, printable
from ..tls.errors import HandshakeError, violation
from ..tls.extensions import ExtensionType
from ..tls.parameters import PublicKey, key_kind
from ..tls.primitives import (
    GROUPS_BY_NUMBER,
    HASHES,
    SCHEMES_BY_NUMBER,
    SUITES_BY_NUMBER,
    CipherSuite,
    RecordKey,
    Transcript,
    hkdf_expand_label,
    hmac_digest,
    signature_is_valid,
)
from ..tls.records import (
    HEADER_LENGTH,
    MAX_CIPHERTEXT,
    ContentType,
    HandshakeMessage,
    HandshakeType,
    RecordReader,
    handshake_type_name,
)
from . import keylog
from .foreign_messages import (
    ClientHello,
    ServerHello,
    chosen_alpn,
    parse_certificate,
    parse_certificate_request,
    parse_certificate_verify,
    parse_client_hello,
    parse_encrypted_extensions,
    parse_server_hello,
)
from .foreign_records import Flow, ForeignHandshake, Outcome, PresentedCertificate, SentAlert, TcpStream
from .keylog import KeyLog

MAX_FINDINGS: Final = 16
"""Sentences of one kind about one handshake: a reader has understood by then."""

_CONTENT_TYPES: Final = frozenset(ContentType)
_LAST_FRAGMENT: Final = 0x80000000  # RFC 5531, 11: the last fragment of an RPC record


def examine_stream(stream: TcpStream, log: KeyLog) -> ForeignHandshake | None:
    """Find a handshake in a TCP stream and check it.

    Args:
        stream: Any stream, with any bytes.
        log: The secrets that there are.

    Returns:
        What there is to tell; None if the stream holds no TLS handshake.
    """
    oriented = _orient(stream)
    if oriented is None:
        return None
    examination = _Examination(oriented, log)
    examination.run()
    return examination.result()


# Finding the handshake


def _orient(stream: TcpStream) -> TcpStream | None:
    """Turn a stream so that its client is TLS's; None if there is no ClientHello."""
    if _client_hello_at(stream.to_server.data) is not None:
        return stream
    if _client_hello_at(stream.to_client.data) is None:
        return None
    return TcpStream(
        client=stream.server, server=stream.client, to_server=stream.to_client, to_client=stream.to_server
    )


def _client_hello_at(data: bytes) -> int | None:
    start = _behind_rpc(data)
    header = data[start : start + HEADER_LENGTH + 1]
    if header[:2] == b"\x16\x03" and header[HEADER_LENGTH:] in {b"", b"\x01"} and len(header) >= 3:
        return start
    return None


def _behind_rpc(data: bytes) -> int:
    """Where the RPC records end with which RPC-with-TLS begins (RFC 9289, 4.1): a call, and a reply, in one fragment each.

    The mark of a last fragment has its highest bit set, which no TLS record's content type has.
    """
    offset = 0
    while offset < len(data) and data[offset] & 0x80:
        offset += 4 + (int.from_bytes(data[offset : offset + 4].ljust(4, b"\0")) & ~_LAST_FRAGMENT)
    return min(offset, len(data))


# Following it


class _Stopped(Exception):  # noqa: N818 - an event, not an error
    """Nothing more can be followed; the text is a sentence that says what stays unchecked, and why."""


@dataclass(slots=True, kw_only=True)
class _Side:
    """One side of the handshake, as the examination goes on."""

    name: str
    flow: Flow
    start: int
    reader: RecordReader = field(default_factory=RecordReader)
    handshake_secret: bytes = field(default=b"", repr=False)
    application_secret: bytes | None = field(default=None, repr=False)
    presented: PresentedCertificate | None = None
    records: int = 0
    ticket_records: int = 0
    data_seen: bool = False

    @classmethod
    def of(cls, name: str, flow: Flow) -> "_Side":
        """Begin behind what RPC says before TLS."""
        side = cls(name=name, flow=flow, start=_behind_rpc(flow.data))
        side.reader.feed_untrusted(flow.data[side.start :])
        return side

    def time(self) -> float:
        """When the last byte that was read so far was there."""
        return self.flow.time_of(max(self.start, len(self.flow.data) - self.reader.unused - 1))

    def why_no_more(self) -> str:
        """Why there are no more bytes, as the end of a sentence."""
        return "the capture lacks bytes" if self.flow.lost else self.flow.end.value


class _Examination:
    """Reads a handshake from its ClientHello on, and collects what there is to say."""

    def __init__(self, stream: TcpStream, log: KeyLog) -> None:
        self._stream = stream
        self._log = log
        self._client = _Side.of("client", stream.to_server)
        self._server = _Side.of("server", stream.to_client)
        self._server.reader.hello_sent = True
        self._speaker = self._client
        self._transcript = Transcript()
        self._hello: ClientHello | None = None
        self._answer: ServerHello | None = None
        self._suite: CipherSuite | None = None
        self._retried = False
        self._alpn: bytes | None = None
        self._tickets = 0
        self._encrypted = False
        self._finished = False
        self._alert: SentAlert | None = None
        self._began = self._ended = self._client.flow.time_of(self._client.start)
        self._checked: list[str] = []
        self._unchecked: list[str] = []
        self._findings: list[str] = []

    def run(self) -> None:
        """Follow the handshake as far as it goes."""
        try:
            self._follow()
        except HandshakeError as error:
            self._note(error)
        except _Stopped as stopped:
            self._unchecked.append(str(stopped))
        for side in (self._client, self._server):
            self._hear_last_word(side)

    def _follow(self) -> None:
        hello, answer, suite = self._read_hellos()
        self._checked.append("The hellos agree: version, suite, key share and session id.")
        if not self._find_handshake_secrets(hello, suite):
            self._pass_over_encrypted()
            return
        asked = self._read_server_flight(hello, answer, suite)
        self._read_client_flight(asked, suite)
        self._finished = True
        for side in (self._client, self._server):
            self._read_application(side, suite)

    # Messages

    def _read(self, side: _Side, *expected: HandshakeType) -> HandshakeMessage:
        """The next message of a side.

        Raises:
            _Stopped: There is none.
            HandshakeError: The side sent an alert, or broke the protocol.
        """
        self._speaker = side
        message = side.reader.next_message_untrusted(expected)
        if message is None:
            names = " or ".join(handshake_type_name(kind) for kind in expected)
            raise _Stopped(f"The {side.name}'s {names} and all that is due then: {side.why_no_more()}.")
        self._ended = max(self._ended, side.time())
        return message

    def _absorb(self, message: HandshakeMessage) -> bytes:
        self._transcript.update(message.data)
        return message.data

    def _note(self, error: HandshakeError) -> None:
        side, failure = self._speaker, error.failure
        if failure.cause is not Cause.PEER_ALERT:
            self._find(f"The {side.name} breaks TLS: {printable(failure.reason)}.")
        else:
            self._note_alert(side, failure.reason if failure.alert is None else failure.alert.name.lower())

    def _note_alert(self, side: _Side, name: str) -> None:
        if self._alert is None:
            self._alert = SentAlert(sender=side.name, name=name)
            self._ended = max(self._ended, side.time())

    def _hear_last_word(self, side: _Side) -> None:
        """Look whether a side that was not heard to its end sent an alert."""
        self._speaker = side
        try:
            side.reader.next_message_untrusted(())
        except HandshakeError as error:
            if error.failure.cause is Cause.PEER_ALERT:
                self._note(error)

    def _find(self, sentence: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(sentence)

    # The hellos

    def _read_hellos(self) -> tuple[ClientHello, ServerHello, CipherSuite]:
        hello = self._read_client_hello()
        if hello.early_data:
            self._client.reader.skip_early_data()
        answer, suite = self._read_server_hello(hello)
        if answer.retry:
            self._retried = True
            hello = self._read_client_hello()
            answer, second_suite = self._read_server_hello(hello)
            if answer.retry or second_suite is not suite:
                raise violation(Alert.ILLEGAL_PARAMETER, "ServerHello does not go with its HelloRetryRequest")
        return hello, answer, suite

    def _read_client_hello(self) -> ClientHello:
        data = self._absorb(self._read(self._client, HandshakeType.CLIENT_HELLO))
        self._hello = parse_client_hello(data)
        return self._hello

    def _read_server_hello(self, hello: ClientHello) -> tuple[ServerHello, CipherSuite]:
        message = self._read(self._server, HandshakeType.SERVER_HELLO)
        answer = self._answer = parse_server_hello(message.data)
        suite = self._suite = _judge_server_hello(hello, answer)
        _judge_choices(hello, answer)
        if answer.retry:  # RFC 8446, 4.4.1: the first ClientHello goes in as its hash
            digest = self._transcript.digest(suite.hash_name)
            self._transcript = Transcript()
            self._transcript.update(bytes([HandshakeType.MESSAGE_HASH, 0, 0, len(digest)]) + digest)
        self._absorb(message)
        return answer, suite

    # Secrets

    def _find_handshake_secrets(self, hello: ClientHello, suite: CipherSuite) -> bool:
        """Look the secrets up; False if what follows stays closed."""
        client, server = self._client, self._server
        client_secret = self._secret(hello, keylog.CLIENT_HANDSHAKE, suite)
        server_secret = self._secret(hello, keylog.SERVER_HANDSHAKE, suite)
        client.application_secret = self._secret(hello, keylog.CLIENT_APPLICATION, suite)
        server.application_secret = self._secret(hello, keylog.SERVER_APPLICATION, suite)
        if client_secret is None or server_secret is None:
            self._unchecked.append(
                "All behind the hellos: there is no key log with this connection's handshake secrets."
            )
            return False
        self._protect(client, suite, client_secret)
        self._protect(server, suite, server_secret)
        return True

    def _protect(self, side: _Side, suite: CipherSuite, secret: bytes) -> None:
        self._speaker = side
        side.handshake_secret = secret
        side.reader.change_key(RecordKey.from_traffic_secret(suite, secret))

    def _secret(self, hello: ClientHello, label: str, suite: CipherSuite) -> bytes | None:
        secret = self._log.secret(hello.random, label)
        if secret is not None and len(secret) != HASHES[suite.hash_name].digest_size:
            self._find(f"The key log's {label} has {len(secret)} bytes, which {suite.name} does not go with.")
            return None
        return secret

    def _pass_over_encrypted(self) -> None:
        self._encrypted = True
        for side in (self._client, self._server):
            for header, body in _records(side.reader.take_rest()):
                if header[0] == ContentType.APPLICATION_DATA:
                    side.records += 1
                elif header[0] == ContentType.ALERT and len(body) == 2:
                    self._note_alert(side, alert_name(body[1]))

    # The flights

    def _read_server_flight(
        self, hello: ClientHello, answer: ServerHello, suite: CipherSuite
    ) -> tuple[int, ...] | None:
        """Read from EncryptedExtensions to Finished.

        Returns:
            The signature schemes that the server accepts; None if it asks for no certificate.
        """
        server = self._server
        self._read_encrypted_extensions(hello)
        asked = None if answer.psk is not None else self._read_server_certificate(hello, suite)
        self._check_finished(server, suite)
        if server.application_secret is not None:
            server.reader.change_key(RecordKey.from_traffic_secret(suite, server.application_secret))
        return asked

    def _read_encrypted_extensions(self, hello: ClientHello) -> None:
        data = self._absorb(self._read(self._server, HandshakeType.ENCRYPTED_EXTENSIONS))
        extensions = parse_encrypted_extensions(data)
        self._alpn = chosen_alpn(extensions)
        if self._alpn is not None and self._alpn not in hello.alpn:
            self._find(f"The server chose the ALPN protocol {self._alpn!r:.40}, which was not offered.")
        if ExtensionType.EARLY_DATA in extensions:
            raise _Stopped(
                "All behind EncryptedExtensions: the server took early data, which is not followed."
            )

    def _read_server_certificate(self, hello: ClientHello, suite: CipherSuite) -> tuple[int, ...] | None:
        asked = None
        message = self._read(self._server, HandshakeType.CERTIFICATE_REQUEST, HandshakeType.CERTIFICATE)
        if message.message_type == HandshakeType.CERTIFICATE_REQUEST:
            asked = parse_certificate_request(self._absorb(message))
            message = self._read(self._server, HandshakeType.CERTIFICATE)
        if not self._authenticate(self._server, message, hello.schemes, suite):
            raise violation(Alert.DECODE_ERROR, "the server's Certificate is empty")
        return asked

    def _read_client_flight(self, asked: tuple[int, ...] | None, suite: CipherSuite) -> None:
        if asked is not None:
            message = self._read(self._client, HandshakeType.CERTIFICATE)
            self._authenticate(self._client, message, asked, suite)
        self._check_finished(self._client, suite)

    # What authenticates

    def _authenticate(
        self, side: _Side, message: HandshakeMessage, schemes: tuple[int, ...], suite: CipherSuite
    ) -> bool:
        """Check a side's certificate and signature; False if it presents none."""
        chain = parse_certificate(self._absorb(message))
        if not chain:
            return False
        key = self._load(side, chain)
        verify = self._read(side, HandshakeType.CERTIFICATE_VERIFY)
        number, signature = parse_certificate_verify(verify.data)
        if number not in schemes:
            self._find(f"The {side.name} signs with scheme 0x{number:04x}, which was not offered.")
        if key is not None:
            self._check_signature(side, key, number, signature, suite)
        self._absorb(verify)
        return True

    def _load(self, side: _Side, chain: tuple[bytes, ...]) -> "_LeafKey | None":
        try:
            leaf = load_certificate_untrusted(chain[0])
        except ValueError as error:
            self._find(f"The {side.name}'s certificate can't be read: {error}.")
            return None
        side.presented = PresentedCertificate(
            chain=chain,
            subject=name_text(leaf.subject),
            issuer=name_text(leaf.issuer),
            not_after=leaf.not_valid_after_utc.isoformat(),
        )
        if problem := key_problem(leaf):
            self._unchecked.append(f"The {side.name}'s CertificateVerify: the certificate {problem}.")
            return None
        key = leaf.public_key()
        assert isinstance(key, PublicKey)  # noqa: S101 - key_problem lets no other pass
        return _LeafKey(public=key, kind=key_kind(key, leaf))

    def _check_signature(
        self, side: _Side, key: "_LeafKey", number: int, signature: bytes, suite: CipherSuite
    ) -> None:
        scheme = SCHEMES_BY_NUMBER.get(number)
        if scheme is None:
            self._unchecked.append(
                f"The {side.name}'s CertificateVerify: scheme 0x{number:04x} is unknown here."
            )
            return
        context = f"TLS 1.3, {side.name} CertificateVerify".encode()
        content = b" " * 64 + context + b"\0" + self._transcript.digest(suite.hash_name)
        signed = content if scheme.hash_name is None else hashlib.new(scheme.hash_name, content).digest()
        if scheme.key_kind == key.kind and signature_is_valid(
            key.public, signature, signed, scheme.hash_name or ""
        ):
            self._checked.append(f"The {side.name}'s CertificateVerify is valid ({scheme.name}).")
        else:
            self._find(
                f"The {side.name}'s CertificateVerify is not a signature of this handshake by its certificate."
            )

    def _check_finished(self, side: _Side, suite: CipherSuite) -> None:
        size = HASHES[suite.hash_name].digest_size
        key = hkdf_expand_label(side.handshake_secret, b"finished", b"", size, suite.hash_name)
        expected = hmac_digest(key, self._transcript.digest(suite.hash_name), suite.hash_name)
        message = self._read(side, HandshakeType.FINISHED)
        if hmac.compare_digest(expected, message.data[4:]):
            self._checked.append(f"The {side.name}'s Finished is right for the messages before it.")
        else:
            self._find(f"The {side.name}'s Finished is wrong for the messages before it.")
        self._absorb(message)

    # What follows the handshake

    def _read_application(self, side: _Side, suite: CipherSuite) -> None:
        self._speaker = side
        if side.application_secret is None:
            side.records = sum(1 for _ in _records(side.reader.take_rest()))
            if side.records:
                self._unchecked.append(
                    f"The {side.name}'s records behind the handshake: their secret is not known."
                )
            return
        key = RecordKey.from_traffic_secret(suite, side.application_secret)
        side.reader.change_key(key)
        if self._open_all(side, key) and side.records:
            self._checked.append(f"The {side.name}'s records behind the handshake open ({side.records}).")

    def _open_all(self, side: _Side, key: RecordKey) -> bool:
        """Open records until one does not open, or the keys change; False in these cases."""
        unread = bytearray()
        for header, body in _records(side.reader.take_rest()):
            protected = header[0] == ContentType.APPLICATION_DATA
            content = (key.open_untrusted(body, header) or b"").rstrip(b"\0") if protected else b""
            if not content:
                self._find(f"Record {side.records} of the {side.name} behind the handshake does not open.")
                return False
            side.records += 1
            if not self._hear(side, content[-1], content[:-1], unread):
                return False
        return True

    def _hear(self, side: _Side, content_type: int, content: bytes, unread: bytearray) -> bool:
        """Look at what a record holds; False if the keys change behind it."""
        if content_type == ContentType.APPLICATION_DATA:
            side.data_seen = True
        elif content_type == ContentType.ALERT and len(content) == 2:
            if content[1] != Alert.CLOSE_NOTIFY and not side.data_seen:
                self._note_alert(side, alert_name(content[1]))
        elif content_type == ContentType.HANDSHAKE:
            side.ticket_records += not side.data_seen
            unread += content
            return self._hear_messages(side, unread)
        else:
            self._find(f"The {side.name} sent a record of type {content_type} behind the handshake.")
        return True

    def _hear_messages(self, side: _Side, unread: bytearray) -> bool:
        while len(unread) >= 4 and len(unread) >= (length := 4 + int.from_bytes(unread[1:4])):
            kind = unread[0]
            del unread[:length]
            if kind == HandshakeType.KEY_UPDATE:
                self._unchecked.append(
                    f"The {side.name}'s records behind its KeyUpdate: they are not followed."
                )
                return False
            if kind != HandshakeType.NEW_SESSION_TICKET or side is self._client:
                self._find(f"The {side.name} sent {handshake_type_name(kind)} behind the handshake.")
            else:
                self._tickets += 1
        return True

    # What came out

    def result(self) -> ForeignHandshake:
        """Sum up."""
        hello, answer, suite = self._hello, self._answer, self._suite
        outcome = self._outcome()
        keys = self._kernel_keys() if outcome is Outcome.COMPLETED else (None, None)
        psk = answer.psk if answer is not None else None
        identities = hello.psk_identities if hello is not None else ()
        return ForeignHandshake(
            client=self._stream.client,
            server=self._stream.server,
            began=self._began,
            ended=self._ended,
            outcome=outcome,
            alert=self._alert,
            client_random=hello.random if hello is not None else b"",
            server_name=hello.server_name if hello is not None else None,
            alpn_offered=hello.alpn if hello is not None else (),
            alpn=self._alpn,
            cipher_suite=suite.name if suite is not None else None,
            group=_group_name(answer.group) if answer is not None else None,
            retried=self._retried,
            psk_identities=identities,
            psk_identity=identities[psk] if psk is not None and psk < len(identities) else None,
            server_certificate=self._server.presented,
            client_certificate=self._client.presented,
            tickets=self._tickets,
            records=(self._client.records, self._server.records),
            client_keys=keys[0],
            server_keys=keys[1],
            checked=tuple(self._checked),
            unchecked=(*self._unchecked, *self._unknowable(psk)),
            findings=tuple(self._findings),
        )

    def _outcome(self) -> Outcome:
        if self._alert is not None:
            return Outcome.REFUSED
        if self._finished:
            return Outcome.COMPLETED
        return Outcome.UNKNOWN if self._encrypted else Outcome.BROKEN_OFF

    def _unknowable(self, psk: int | None) -> Iterator[str]:
        if psk is not None:
            yield "The pre-shared key's binder: that takes the key itself."
        if self._server.presented or self._client.presented:
            yield "Whether the certificates are to be trusted: that takes trust anchors."

    def _kernel_keys(self) -> tuple[KernelSecrets | None, KernelSecrets | None]:
        client, server, suite = self._client, self._server, self._suite
        if suite is None or client.application_secret is None or server.application_secret is None:
            return None, None
        clients = RecordKey.from_traffic_secret(suite, client.application_secret).traffic_key()
        servers = RecordKey.from_traffic_secret(suite, server.application_secret).traffic_key()
        behind_tickets = replace(servers, sequence=server.ticket_records)
        return (
            KernelSecrets(version=TLS_1_3_VERSION, cipher=suite.ktls, tx=clients, rx=servers),
            KernelSecrets(version=TLS_1_3_VERSION, cipher=suite.ktls, tx=behind_tickets, rx=clients),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _LeafKey:
    """The key of a leaf certificate, and what `key_kind` says of it."""

    public: PublicKey
    kind: str


def _judge_server_hello(hello: ClientHello, answer: ServerHello) -> CipherSuite:
    """Check version, session id and suite (RFC 8446, 4.1.3)."""
    if answer.version != TLS_1_3_VERSION:
        raise violation(Alert.PROTOCOL_VERSION, "it does not choose TLS 1.3")
    if answer.session_id != hello.session_id:
        raise violation(Alert.ILLEGAL_PARAMETER, "ServerHello does not echo the session id")
    if answer.suite not in hello.suites:
        raise violation(Alert.ILLEGAL_PARAMETER, f"cipher suite 0x{answer.suite:04x} was not offered")
    suite = SUITES_BY_NUMBER.get(answer.suite)
    if suite is None:
        raise _Stopped(f"All behind the hellos: the cipher suite 0x{answer.suite:04x} is unknown here.")
    return suite


def _judge_choices(hello: ClientHello, answer: ServerHello) -> None:
    """Check group and pre-shared key (RFC 8446, 4.1.4, 4.2.8 and 4.2.11)."""
    offered = hello.groups if answer.retry else hello.shares
    if answer.group is None and answer.psk is None and not answer.retry:
        raise violation(Alert.MISSING_EXTENSION, "ServerHello has neither key share nor pre-shared key")
    if answer.group is not None and answer.group not in offered:
        raise violation(Alert.ILLEGAL_PARAMETER, f"the group {_group_name(answer.group)} was not offered")
    if answer.psk is not None and answer.psk >= len(hello.psk_identities):
        raise violation(Alert.ILLEGAL_PARAMETER, "the server chose a pre-shared key that was not offered")


def _group_name(number: int | None) -> str | None:
    if number is None:
        return None
    group = GROUPS_BY_NUMBER.get(number)
    return group.name if group is not None else f"0x{number:04x}"


def alert_name(number: int) -> str:
    """The RFC's name of an alert, or its number."""
    try:
        return Alert(number).name.lower()
    except ValueError:
        return f"alert {number}"


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut bytes into records, header and body; what is no record, or not there to its end, ends them."""
    offset = 0
    while offset + HEADER_LENGTH <= len(data):
        header = data[offset : offset + HEADER_LENGTH]
        length = int.from_bytes(header[3:])
        end = offset + HEADER_LENGTH + length
        if header[0] not in _CONTENT_TYPES or length > MAX_CIPHERTEXT or end > len(data):
            return
        yield header, data[offset + HEADER_LENGTH : end]
        offset = end
