r"""A TLS 1.3 endpoint that does what a test tells it, right or wrong, under the right keys.

    peer = ServerAdversary(client_engine(), identity())
    peer.alter[MessageType.FINISHED] = lambda message: message[:-1] + b"\0"
    verdict = peer.run(peer.script())
    assert verdict.alert is Alert.DECRYPT_ERROR and verdict.protection is Protection.HANDSHAKE

It talks to an engine in memory.  A *script* is a list of steps, each a function of the peer; `script()` is the
honest handshake, whose steps are methods of the classes below (their section "Steps").  What a test changes:

* the script, an ordinary list of named steps: `without`, `before`, `after`, `instead`, or a list of its own;
  `sends(data)`, `sends_record(...)`, `sends_alert(...)` make further steps;
* `alter[type]`: a function over the bytes of each message of that type, before they go into the transcript, so that
  the rest of the handshake is consistent with them;
* `hello`, `extensions`, `chain`, `scheme`, ...: what messages are made of, see the attributes;
* `fragment`: the size of the pieces into which messages are cut; `coalesce`: as many messages to a record as there
  are between changes of keys.

Nothing is checked that a test does not ask for.  The key schedule is built here on `primitives`, which
`tests/tls/test_primitives.py` compares with RFC 8448; what the engine sends is decrypted, its messages are in
`received`, its alert in the verdict along with the keys that protected it.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ktls_agent.sansio.status import Alert
from ktls_agent.sansio.tls.parameters import HandshakeCompleted, HandshakeFailed, Identity, TlsEvent
from ktls_agent.sansio.tls.primitives import (
    GROUPS_BY_NAME,
    GROUPS_BY_NUMBER,
    HASHES,
    SIGNATURE_SCHEMES,
    SUITES_BY_NUMBER,
    CipherSuite,
    EphemeralKey,
    RecordKey,
    Transcript,
    derive_secret,
    hkdf_expand_label,
    hmac_digest,
    sign,
)

from . import messages
from .messages import ClientHello, Extension, MessageType, ServerHello, Type

CHANGE_CIPHER_SPEC: Final = 20
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23

ALL_SCHEMES: Final = tuple(scheme.number for scheme in SIGNATURE_SCHEMES)


class Endpoint(Protocol):
    """What is under test: a `TlsEngine` that was started, or something that is called like one."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer."""

    def data_to_send(self) -> bytes:
        """The bytes that are due to the peer."""
        ...

    def next_event(self) -> TlsEvent | None:
        """How the handshake ended, once."""
        ...


class Protection(enum.Enum):
    """Under which keys a record was."""

    NONE = "no keys"
    HANDSHAKE = "handshake keys"
    APPLICATION = "application keys"


class StuckError(Exception):
    """The script wants what there is no more, or not yet: keys without a ServerHello, for example."""


Edit = Callable[[bytes], bytes]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a script, found by its name."""

    name: str
    run: Callable[["Adversary"], None]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the engine made of it.

    Attributes:
        event: How the handshake ended for the engine; None if it still goes on.
        alert: The alert that was read on the wire.
        level: The alert's level, 1 (warning) or 2 (fatal).
        protection: The keys that the alert came under.
    """

    event: TlsEvent | None
    alert: Alert | None = None
    level: int | None = None
    protection: Protection | None = None

    @property
    def completed(self) -> bool:
        return isinstance(self.event, HandshakeCompleted)

    @property
    def reason(self) -> str:
        assert isinstance(self.event, HandshakeFailed), self.event
        return self.event.failure.reason


# Key schedule


class KeySchedule:
    """RFC 8446, 7.1, for one suite."""

    def __init__(self, suite: CipherSuite, *, psk: bytes | None = None) -> None:
        self.suite = suite
        self._zeros = bytes(HASHES[suite.hash_name].digest_size)
        self._secret = hmac_digest(self._zeros, psk or self._zeros, suite.hash_name)

    def mix(self, secret: bytes | None) -> None:
        """To the next stage: the handshake secret with the shared one, then the master secret with none."""
        salt = derive_secret(self._secret, b"derived", None, self.suite.hash_name)
        self._secret = hmac_digest(salt, secret or self._zeros, self.suite.hash_name)

    def traffic_secret(self, label: bytes, transcript: Transcript) -> bytes:
        return derive_secret(self._secret, label, transcript, self.suite.hash_name)

    def record_key(self, traffic_secret: bytes) -> RecordKey:
        return RecordKey.from_traffic_secret(self.suite, traffic_secret)

    def verify_data(self, traffic_secret: bytes, transcript: Transcript) -> bytes:
        """The content of Finished (RFC 8446, 4.4.4)."""
        name = self.suite.hash_name
        key = hkdf_expand_label(traffic_secret, b"finished", b"", len(self._zeros), name)
        return hmac_digest(key, transcript.digest(name), name)


def message_hash(first_hello: bytes, hash_name: str) -> bytes:
    """What stands for the first ClientHello after a HelloRetryRequest (RFC 8446, 4.4.1)."""
    transcript = Transcript()
    transcript.update(first_hello)
    return messages.message(MessageType.MESSAGE_HASH, transcript.digest(hash_name))


def signed_content(role: str, transcript: Transcript, hash_name: str) -> bytes:
    """What CertificateVerify signs (RFC 8446, 4.4.3)."""
    context = f"TLS 1.3, {role} CertificateVerify".encode()
    return b" " * 64 + context + b"\0" + transcript.digest(hash_name)


def signature_over(identity: Identity, scheme: int, content: bytes) -> bytes:
    """Sign the content with the scheme, or with what the key can do if the scheme is not the key's."""
    known = {item.number: item for item in SIGNATURE_SCHEMES}
    fitting = known.get(scheme)
    if fitting is None or fitting.key_kind != identity.key_kind:
        fitting = next(item for item in SIGNATURE_SCHEMES if item.key_kind == identity.key_kind)
    if fitting.hash_name is None:
        return sign(identity.private_key, content, "")
    digest = Transcript()
    digest.update(content)
    return sign(identity.private_key, digest.digest(fitting.hash_name), fitting.hash_name)


# The endpoint


class Adversary:
    """What both roles have in common: records, transcript, and reading what the engine sends.

    Attributes:
        engine: The engine under test, already started.
        alter: Edits by message type; see the module.
        fragment: Cut messages into pieces of at most so many bytes.
        coalesce: Put messages together into records, up to the next change of keys.
        pad: Zeros behind the content of each protected record (RFC 8446, 5.4).
        psk: The pre-shared key of the key schedule, or None.
        write_key: What protects the next record; None is plaintext.
        transcript: The handshake messages of both ends, as sent.
        received: The engine's handshake messages, by type.
        order: The types of the engine's handshake messages, in their order.
        records: The outer content type and length of each record from the engine.
        sent: All bytes that were delivered to the engine.
        handshake_secrets: The handshake traffic secrets, the client's and the server's.
        application_secrets: The application traffic secrets, the client's and the server's.
    """

    role: str = ""

    def __init__(self, engine: Endpoint) -> None:
        self.engine = engine
        self.alter: dict[int, Edit] = {}
        self.fragment = 2**14
        self.coalesce = False
        self.pad = 0
        self.psk: bytes | None = None
        self.write_key: RecordKey | None = None
        self.transcript = Transcript()
        self.received: dict[int, bytes] = {}
        self.order: list[int] = []
        self.records: list[tuple[int, int]] = []
        self.sent = b""
        self._schedule: KeySchedule | None = None
        self.handshake_secrets: tuple[bytes, bytes] = (b"", b"")
        self.application_secrets: tuple[bytes, bytes] = (b"", b"")
        self._read_keys: list[tuple[Protection, RecordKey]] = []
        self._output = bytearray()
        self._messages = bytearray()
        self._input = bytearray()
        self._incoming = bytearray()
        self._event: TlsEvent | None = None
        self._alert: tuple[int, int, Protection] | None = None

    @property
    def schedule(self) -> KeySchedule:
        """The key schedule, once a suite is known."""
        if self._schedule is None:
            raise StuckError("there is no key schedule before the ServerHello")
        return self._schedule

    # Running

    def run(self, script: Sequence[Step]) -> Verdict:
        """Run the steps until they end or the engine has failed; deliver everything."""
        for step in script:
            if isinstance(self._event, HandshakeFailed):
                break
            step.run(self)
        self.deliver()
        return self.verdict()

    def verdict(self) -> Verdict:
        if self._alert is None:
            return Verdict(event=self._event)
        level, alert, protection = self._alert
        return Verdict(event=self._event, alert=Alert(alert), level=level, protection=protection)

    def deliver(self) -> None:
        """Give the engine what was written, and take what it answers."""
        self.flush()
        if self._output:
            data = bytes(self._output)
            self._output.clear()
            self.sent += data
            self.engine.receive_data(data)
        self._collect()

    def _collect(self) -> None:
        self._input += self.engine.data_to_send()
        if (event := self.engine.next_event()) is not None:
            assert self._event is None, "an engine tells only once how the handshake ended"
            self._event = event
        self._read_records()

    # Writing

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.flush()
        self._output += data

    def record(self, content_type: int, fragment: bytes, *, version: int = 0x0303) -> None:
        """Send one record under the current key."""
        self.flush()
        self._record(content_type, fragment, version)

    def _record(self, content_type: int, fragment: bytes, version: int = 0x0303) -> None:
        if self.write_key is None or content_type == CHANGE_CIPHER_SPEC:
            header = bytes([content_type]) + version.to_bytes(2) + len(fragment).to_bytes(2)
            self._output += header + fragment
            return
        inner = fragment + bytes([content_type]) + bytes(self.pad)
        self.protected(inner, version=version)

    def protected(self, inner_plaintext: bytes, *, version: int = 0x0303) -> None:
        """Send a protected record with that TLSInnerPlaintext, whatever it is."""
        if self.write_key is None:
            raise StuckError("there are no keys yet")
        header = bytes([APPLICATION_DATA]) + version.to_bytes(2) + (len(inner_plaintext) + 16).to_bytes(2)
        self._output += header + self.write_key.seal(inner_plaintext, header)

    def message(self, data: bytes, *, in_transcript: bool = True) -> bytes:
        """Send a handshake message, edited if a test wants that; return it as it went out."""
        edit = self.alter.get(data[0]) if data else None
        data = edit(data) if edit else data
        if in_transcript:
            self.transcript.update(data)
        self._messages += data
        if not self.coalesce:
            self.flush()
        return data

    def take_waiting(self) -> bytes:
        """The messages that wait for a record, for a test that puts them into records of its own."""
        data = bytes(self._messages)
        self._messages.clear()
        return data

    def flush(self) -> None:
        """Put the messages that wait into records."""
        data = self.take_waiting()
        for start in range(0, len(data), self.fragment):
            self._record(HANDSHAKE, data[start : start + self.fragment])

    def alert(self, alert: int, level: int = 2) -> None:
        self.record(ALERT, bytes([level, alert]))

    def change_cipher_spec(self) -> None:
        """The record that TLS 1.3 only has for old middleboxes (RFC 8446, D.4)."""
        self.record(CHANGE_CIPHER_SPEC, b"\x01")

    def protect(self, traffic_secret: bytes) -> None:
        """Go over to the keys of that secret for what is sent."""
        self.flush()
        self.write_key = self.schedule.record_key(traffic_secret)

    # Reading

    def expect(self, protection: Protection, traffic_secret: bytes) -> None:
        """From here on the engine may use the keys of that secret."""
        self._read_keys.append((protection, self.schedule.record_key(traffic_secret)))

    def _read_records(self) -> None:
        while len(self._input) >= 5 and len(self._input) >= (end := 5 + int.from_bytes(self._input[3:5])):
            header, body = bytes(self._input[:5]), bytes(self._input[5:end])
            opened = self._open(header, body)
            if opened is None:
                return  # under keys that are still to be made
            del self._input[:end]
            self.records.append((header[0], len(body)))
            self._take(*opened)

    def _open(self, header: bytes, body: bytes) -> tuple[int, bytes, Protection] | None:
        if header[0] != APPLICATION_DATA:
            return header[0], body, Protection.NONE
        for protection, key in self._read_keys:
            inner = key.open_untrusted(body, header)
            if inner is not None:
                content = inner.rstrip(b"\0")
                return content[-1], content[:-1], protection
        return None

    def _take(self, content_type: int, fragment: bytes, protection: Protection) -> None:
        if content_type == ALERT:
            assert self._alert is None, "an engine sends one alert"
            assert len(fragment) == 2, fragment
            self._alert = (fragment[0], fragment[1], protection)
        elif content_type == HANDSHAKE:
            self._incoming += fragment
            self._take_messages()

    def _take_messages(self) -> None:
        while len(self._incoming) >= 4:
            end = 4 + int.from_bytes(self._incoming[1:4])
            if len(self._incoming) < end:
                return
            data = bytes(self._incoming[:end])
            del self._incoming[:end]
            self.received[data[0]] = data
            self.order.append(data[0])
            self.transcript.update(data)

    # What both roles sign

    def _certificate_verify(self, identity: Identity, scheme: int) -> bytes:
        content = signed_content(self.role, self.transcript, self.schedule.suite.hash_name)
        return messages.certificate_verify(scheme, signature_over(identity, scheme, content))


class ServerAdversary(Adversary):
    """A server, against a client engine.

    Attributes:
        identity: The certificate and key that the server signs with.
        chain: The certificates to present.
        scheme: The scheme of CertificateVerify; its number is sent even if the key can't make it.
        suite: The cipher suite's number.
        group: The key exchange group's number.
        share: The key_exchange to send; None makes an honest one.
        client_hello: The client's last hello, parsed.
        change_hello: Called with each ServerHello and HelloRetryRequest before it is sent, to change its fields.
        extensions: For EncryptedExtensions.
        request_extensions: For CertificateRequest.
        hello_retry_extensions: For HelloRetryRequest; None asks for a share of `group`.
    """

    role = "server"

    def __init__(
        self,
        engine: Endpoint,
        identity: Identity,
        *,
        suite: int = 0x1301,
        group: str = "x25519",
    ) -> None:
        super().__init__(engine)
        self.identity = identity
        self.chain: Sequence[bytes] = identity.chain
        self.scheme = next(item.number for item in SIGNATURE_SCHEMES if item.key_kind == identity.key_kind)
        self.suite = suite
        self.group = GROUPS_BY_NAME[group].number
        self.share: bytes | None = None
        self.extensions: list[Extension] = []
        self.request_extensions: list[Extension] = [messages.signature_algorithms(*ALL_SCHEMES)]
        self.hello_retry_extensions: list[Extension] | None = None
        self.change_hello: Callable[[ServerHello], None] = lambda _: None
        self.client_hello: ClientHello
        self._collect()
        self._read_client_hello()

    def _read_client_hello(self) -> None:
        self.client_hello = messages.read_client_hello(self.received[MessageType.CLIENT_HELLO])

    def script(self, *, client_certificate: bool = False, hello_retry: bool = False) -> list[Step]:
        """The honest handshake."""
        return [
            *([_step(ServerAdversary.hello_retry_request)] if hello_retry else []),
            _step(ServerAdversary.server_hello),
            _step(ServerAdversary.change_cipher_spec),
            _step(ServerAdversary.handshake_keys),
            _step(ServerAdversary.encrypted_extensions),
            *([_step(ServerAdversary.certificate_request)] if client_certificate else []),
            _step(ServerAdversary.certificate),
            _step(ServerAdversary.certificate_verify),
            _step(ServerAdversary.finished),
            _step(ServerAdversary.application_keys),
        ]

    # Steps

    def hello_retry_request(self) -> None:
        """Send a HelloRetryRequest, and read the second ClientHello."""
        hash_name = SUITES_BY_NUMBER[self.suite].hash_name
        first = self.received[MessageType.CLIENT_HELLO]
        self.transcript = Transcript()
        self.transcript.update(message_hash(first, hash_name))
        extensions: list[Extension] | None = self.hello_retry_extensions
        if extensions is None:
            extensions = [(Type.KEY_SHARE, self.group.to_bytes(2))]
        hello = self._hello(messages.HELLO_RETRY_RANDOM, extensions)
        self.change_hello(hello)
        self.message(hello.write())
        self.change_cipher_spec()
        self.deliver()
        self._read_client_hello()

    def server_hello(self) -> None:
        """Send ServerHello, and make the handshake keys."""
        public, shared = self._exchange()
        hello = self._hello(b"S" * 32, [(Type.KEY_SHARE, messages.key_share_entry(self.group, public))])
        self.change_hello(hello)
        self.message(hello.write())
        self._make_handshake_keys(shared)

    def _hello(self, random: bytes, extensions: Sequence[Extension]) -> ServerHello:
        return ServerHello(
            random=random,
            session_id=self.client_hello.session_id,
            cipher_suite=self.suite,
            extensions=[(Type.SUPPORTED_VERSIONS, b"\x03\x04"), *extensions],
        )

    def _exchange(self) -> tuple[bytes, bytes]:
        group = GROUPS_BY_NUMBER[self.group]
        private = group.generate(lambda count: b"\x11" * count)
        theirs = messages.read_client_shares(self.client_hello).get(self.group)
        # A client that has not sent such a share can't go on: whichever secret is right then.
        shared = group.exchange_untrusted(private, theirs) if theirs else b"\x22" * 32
        return self.share if self.share is not None else group.public_value(private), shared

    def _make_handshake_keys(self, shared: bytes) -> None:
        self._schedule = KeySchedule(SUITES_BY_NUMBER[self.suite], psk=self.psk)
        self.schedule.mix(shared)
        client = self.schedule.traffic_secret(b"c hs traffic", self.transcript)
        server = self.schedule.traffic_secret(b"s hs traffic", self.transcript)
        self.handshake_secrets = (client, server)
        self.expect(Protection.HANDSHAKE, client)

    def handshake_keys(self) -> None:
        """Protect what follows with the handshake keys."""
        self.protect(self.handshake_secrets[1])

    def encrypted_extensions(self) -> None:
        """Send EncryptedExtensions with `extensions`."""
        self.message(messages.encrypted_extensions(self.extensions))

    def certificate_request(self) -> None:
        """Send CertificateRequest with `request_extensions`."""
        self.message(messages.certificate_request(self.request_extensions))

    def certificate(self) -> None:
        """Send Certificate with `chain`."""
        self.message(messages.certificate(self.chain))

    def certificate_verify(self) -> None:
        """Send CertificateVerify by `identity` with `scheme`."""
        self.message(self._certificate_verify(self.identity, self.scheme))

    def finished(self) -> None:
        """Send Finished, and make the application keys."""
        data = self.schedule.verify_data(self.handshake_secrets[1], self.transcript)
        self.message(messages.message(MessageType.FINISHED, data))
        self.schedule.mix(None)
        client = self.schedule.traffic_secret(b"c ap traffic", self.transcript)
        server = self.schedule.traffic_secret(b"s ap traffic", self.transcript)
        self.application_secrets = (client, server)
        self.expect(Protection.APPLICATION, client)

    def application_keys(self) -> None:
        """Protect what follows with the application keys."""
        self.protect(self.application_secrets[1])


class ClientAdversary(Adversary):
    """A client, against a server engine.

    Attributes:
        hello: The ClientHello that `client_hello` sends; a test may change anything in it.
        identity: The certificate and key to answer a CertificateRequest with.
        chain: The certificates to present; empty presents none.
        scheme: The scheme of CertificateVerify.
        server_hello: What the server answered, parsed.
    """

    role = "client"

    def __init__(
        self,
        engine: Endpoint,
        identity: Identity | None = None,
        *,
        suite: int = 0x1301,
        group: str = "x25519",
        share_sent: bool = True,
    ) -> None:
        super().__init__(engine)
        self.identity = identity
        self.chain: Sequence[bytes] = identity.chain if identity is not None else ()
        self.scheme = next(
            (item.number for item in SIGNATURE_SCHEMES if identity and item.key_kind == identity.key_kind), 0
        )
        self._group = GROUPS_BY_NAME[group]
        self._private: EphemeralKey = self._group.generate(lambda count: b"\x11" * count)
        self.share = self._group.public_value(self._private)
        shares = ((self._group.number, self.share),) if share_sent else ()
        self.hello = ClientHello(
            random=b"C" * 32,
            session_id=b"I" * 32,
            cipher_suites=[suite],
            extensions=[
                messages.server_name(b"server.test"),
                messages.supported_groups(self._group.number),
                messages.signature_algorithms(*ALL_SCHEMES),
                messages.client_versions(0x0304),
                messages.client_shares(*shares),
            ],
        )
        self.server_hello: ServerHello
        self._first_hello = b""

    def set_extension(self, kind: int, content: bytes | None) -> None:
        """Put another content into an extension of the hello, add it at the end, or take it out (None)."""
        kept = [(known, old if known != kind else content) for known, old in self.hello.extensions]
        if kind not in dict(self.hello.extensions):
            kept.append((kind, content))
        self.hello.extensions = [(known, value) for known, value in kept if value is not None]

    def script(self, *, certificate: bool = False, hello_retry: bool = False) -> list[Step]:
        """The honest handshake; with `certificate` it answers a CertificateRequest."""
        return [
            _step(ClientAdversary.client_hello),
            *([_step(ClientAdversary.second_client_hello)] if hello_retry else []),
            _step(ClientAdversary.read_server_flight),
            _step(ClientAdversary.change_cipher_spec),
            _step(ClientAdversary.handshake_keys),
            *([_step(ClientAdversary.certificate)] if certificate else []),
            *([_step(ClientAdversary.certificate_verify)] if certificate and self.chain else []),
            _step(ClientAdversary.finished),
            _step(ClientAdversary.application_keys),
        ]

    # Steps

    def client_hello(self) -> None:
        """Send the ClientHello."""
        self._first_hello = self.message(self.hello.write())

    def second_client_hello(self) -> None:
        """Read a HelloRetryRequest, and send the ClientHello again with what it asks for."""
        self.deliver()
        if MessageType.SERVER_HELLO not in self.received:
            raise StuckError("no HelloRetryRequest came")
        retry = messages.read_server_hello(self.received[MessageType.SERVER_HELLO])
        if retry.random != messages.HELLO_RETRY_RANDOM:
            raise StuckError("a ServerHello came, no HelloRetryRequest")
        self.transcript = Transcript()
        suite = SUITES_BY_NUMBER[retry.cipher_suite]
        self.transcript.update(message_hash(self._first_hello, suite.hash_name))
        self.transcript.update(self.received[MessageType.SERVER_HELLO])
        asked = dict(retry.extensions)
        self.set_extension(*messages.client_shares((self._group.number, self.share)))
        if Type.COOKIE in asked:
            self.set_extension(Type.COOKIE, asked[Type.COOKIE])
        self.message(self.hello.write())

    def read_server_flight(self) -> None:
        """Deliver the hello, and read the answer: make the handshake keys, then the application keys."""
        before = self.transcript.copy()
        self.deliver()
        if MessageType.SERVER_HELLO not in self.received:
            return
        self.server_hello = messages.read_server_hello(self.received[MessageType.SERVER_HELLO])
        if self.server_hello.random == messages.HELLO_RETRY_RANDOM:
            return
        before.update(self.received[MessageType.SERVER_HELLO])
        self._make_handshake_keys(before)
        self._read_records()
        self._make_application_keys()
        self._read_records()

    def _make_handshake_keys(self, transcript: Transcript) -> None:
        share = messages.Reader(dict(self.server_hello.extensions)[Type.KEY_SHARE])
        share.number(2)
        shared = self._group.exchange_untrusted(self._private, share.vector(2))
        self._schedule = KeySchedule(SUITES_BY_NUMBER[self.server_hello.cipher_suite], psk=self.psk)
        self.schedule.mix(shared)
        client = self.schedule.traffic_secret(b"c hs traffic", transcript)
        server = self.schedule.traffic_secret(b"s hs traffic", transcript)
        self.handshake_secrets = (client, server)
        self.expect(Protection.HANDSHAKE, server)

    def _make_application_keys(self) -> None:
        self.schedule.mix(None)
        client = self.schedule.traffic_secret(b"c ap traffic", self.transcript)
        server = self.schedule.traffic_secret(b"s ap traffic", self.transcript)
        self.application_secrets = (client, server)
        self.expect(Protection.APPLICATION, server)

    def handshake_keys(self) -> None:
        """Protect what follows with the handshake keys."""
        self.protect(self.handshake_secrets[0])

    def certificate(self) -> None:
        """Send Certificate with `chain`."""
        self.message(messages.certificate(self.chain))

    def certificate_verify(self) -> None:
        """Send CertificateVerify by `identity` with `scheme`."""
        assert self.identity is not None
        self.message(self._certificate_verify(self.identity, self.scheme))

    def finished(self) -> None:
        """Send Finished."""
        data = self.schedule.verify_data(self.handshake_secrets[0], self.transcript)
        self.message(messages.message(MessageType.FINISHED, data))

    def application_keys(self) -> None:
        """Protect what follows with the application keys."""
        self.protect(self.application_secrets[0])


# Steps and scripts


def _step(method: Callable[..., None]) -> Step:
    return Step(name=method.__name__, run=method)


def sends(data: bytes, *, in_transcript: bool = False) -> Step:
    """A step that sends a handshake message."""

    def run(peer: Adversary) -> None:
        peer.message(data, in_transcript=in_transcript)

    return Step(name="sends", run=run)


def sends_record(content_type: int, fragment: bytes) -> Step:
    """A step that sends one record under the current keys."""
    return Step(name="sends_record", run=lambda peer: peer.record(content_type, fragment))


def sends_raw(data: bytes) -> Step:
    """A step that sends bytes as they are."""
    return Step(name="sends_raw", run=lambda peer: peer.raw(data))


def sends_alert(alert: int, level: int = 2) -> Step:
    """A step that sends an alert under the current keys."""
    return Step(name="sends_alert", run=lambda peer: peer.alert(alert, level))


def does(action: Callable[..., None]) -> Step:
    """A step that calls a function with the peer."""
    return Step(name="does", run=action)


def _find(script: Sequence[Step], name: str) -> int:
    found = [position for position, step in enumerate(script) if step.name == name]
    assert found, f"the script has no step {name}"
    return found[0]


def without(script: Sequence[Step], *names: str) -> list[Step]:
    """The script without the steps of these names."""
    for name in names:
        _find(script, name)
    return [step for step in script if step.name not in names]


def before(script: Sequence[Step], name: str, *steps: Step) -> list[Step]:
    """The script with further steps before that one."""
    position = _find(script, name)
    return [*script[:position], *steps, *script[position:]]


def after(script: Sequence[Step], name: str, *steps: Step) -> list[Step]:
    """The script with further steps after that one."""
    position = _find(script, name) + 1
    return [*script[:position], *steps, *script[position:]]


def instead(script: Sequence[Step], name: str, *steps: Step) -> list[Step]:
    """The script with other steps in the place of that one."""
    position = _find(script, name)
    return [*script[:position], *steps, *script[position + 1 :]]


def twice(script: Sequence[Step], name: str) -> list[Step]:
    """The script with that step done two times."""
    return after(script, name, script[_find(script, name)])


def swapped(script: Sequence[Step], first: str, second: str) -> list[Step]:
    """The script with two steps in each other's places."""
    one, two = _find(script, first), _find(script, second)
    changed = list(script)
    changed[one], changed[two] = changed[two], changed[one]
    return changed
