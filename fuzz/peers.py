r"""A peer under the right keys whose handshake messages are the fuzzer's: it gets past encryption.

An input is a stream of plaintext records, each a content type, a version, a length and a fragment.  The peer sends
them one by one, protected as a real peer would protect them by then: with the handshake keys behind ServerHello
(client: once the server's flight has come), with the application keys behind Finished.  The keys follow
from the messages as they were sent, however odd they are.

What a peer can only know at run time is XORed onto the input: `verify_data` onto the body of Finished, the signature
onto CertificateVerify, the binders onto the binders of a ClientHello that lies in one record.  So zeros there are the
honest handshake, and anything else is wrong by just that much.

Content types that TLS does not have are instructions (`Extra`).
"""

import abc
import enum
import re
from collections.abc import Iterator
from typing import Final

from tests.peers import messages
from tests.peers.adversary import (
    HANDSHAKE,
    Adversary,
    KeySchedule,
    Protection,
    message_hash,
    signature_over,
    signed_content,
)
from tests.peers.messages import MessageType, Reader, Type

from ktls_agent.sansio.ktls import KernelSecrets
from ktls_agent.sansio.status import Cause, Failure
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    HandshakeCompleted,
    HandshakeFailed,
    Identity,
    PreSharedKey,
    TlsEvent,
)
from ktls_agent.sansio.tls.primitives import (
    GROUPS_BY_NUMBER,
    HASHES,
    SUITES_BY_NUMBER,
    EphemeralKey,
    RecordKey,
    Transcript,
)
from ktls_agent.sansio.tls.psk import compute_binder
from ktls_agent.sansio.tls.records import HEADER_LENGTH, MAX_CIPHERTEXT, MAX_HANDSHAKE_MESSAGE, MAX_PLAINTEXT

from .invariants import Answering, assert_sound
from .world import CLIENT, KEYS, SERVER

_BY_NAME: Final = {key.identity: key for key in KEYS}
_ED25519: Final = 0x0807


class Extra(enum.IntEnum):
    """Content types of an input that are instructions."""

    INNER = 0xF0
    """The fragment is a whole TLSInnerPlaintext, padding and all (RFC 8446, 5.2)."""

    RAW = 0xF1
    """The fragment goes out as it is, without a record's header."""

    KEYS = 0xF2
    """Go over to other keys: the first byte, modulo 3, chooses none, handshake or application keys."""

    LONG = 0xF3
    """A record that is too long to be in an input: the content type, an exponent, and what is repeated to fill it."""


_MAX_EXPONENT: Final = 15
"""A record of 32 KiB: twice what is allowed."""

MAX_BUFFERED: Final = MAX_HANDSHAKE_MESSAGE + MAX_PLAINTEXT + MAX_CIPHERTEXT + HEADER_LENGTH
"""Bytes that an engine may hold of what a peer has said: an unfinished message, a record more, and a record."""


def record(content_type: int, fragment: bytes, version: int = 0x0303) -> bytes:
    """One record of an input."""
    return bytes([content_type]) + version.to_bytes(2) + len(fragment).to_bytes(2) + fragment


def records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Content type, version and fragment of each record; the last one ends where the input ends."""
    at = 0
    while len(data) - at >= 5:
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5])
        yield data[at], int.from_bytes(data[at + 1 : at + 3]), data[at + 5 : end]
        at = end


def own_share(group: int) -> tuple[EphemeralKey, bytes]:
    """The peer's ephemeral key in a group, the same in every run, and its share."""
    made = GROUPS_BY_NUMBER[group].generate(lambda count: b"\x11" * count)
    return made, GROUPS_BY_NUMBER[group].public_value(made)


def _long(fragment: bytes) -> tuple[int, int, bytes]:
    content_type, exponent = fragment[:2].ljust(2, b"\0")
    pattern, size = fragment[2:] or b"\0", 1 << exponent % (_MAX_EXPONENT + 1)
    known = HANDSHAKE if content_type == Extra.LONG else content_type
    return known, 0x0303, (pattern * (size // len(pattern) + 1))[:size]


_UNREADABLE: Final = (AssertionError, KeyError, IndexError)
"""What reading our own message raises after the fuzzer has been at it."""


class Peer(Adversary, abc.ABC):
    """What both roles have in common.

    Attributes:
        event: How the handshake ended; None while it goes on.
        spoken: The types of the messages that went out.
        in_step: Whether the peer knows all that the keys are made of: it sent its own share, and waited for answers.
    """

    identity: Identity
    own_side = 0

    def __init__(self, engine: TlsEngine) -> None:
        super().__init__(Answering(engine))
        self.tls = engine
        # What a message does to the keys holds for the next record, not for the one that it is in.
        self.next_key: RecordKey | None = None
        self.spoken = bytearray()
        self.in_step = True
        self._waits = False
        self._message = bytearray()
        self._mask = b""
        self._collect()

    @property
    def event(self) -> TlsEvent | None:
        return self._event

    def play(self, data: bytes) -> None:
        """Send an input, as long as the engine wants more."""
        for content_type, version, fragment in records(data):
            if self._event is not None:
                return
            self.write_key = self.next_key
            self._send(content_type, version, fragment)
            self.deliver()
            self._assert_bounded()
            self.react()
            self._waits = False

    def _assert_bounded(self) -> None:
        reader = self.tls._connection.reader
        assert len(reader._input) + len(reader._handshake) <= MAX_BUFFERED

    def react(self) -> None:
        """Look at what the engine has answered."""

    def _send(self, content_type: int, version: int, fragment: bytes) -> None:
        match content_type:
            case Extra.RAW:
                self.raw(fragment)
            case Extra.KEYS:
                self._change_keys(fragment)
            case Extra.LONG:
                self._send(*_long(fragment))
            case Extra.INNER if self.write_key is not None:
                self.protected(self._inner(fragment), version=version)
            case _ if content_type == HANDSHAKE:
                self.record(content_type, self._filled(fragment), version=version)
            case _:
                self.record(content_type, fragment, version=version)

    def _inner(self, fragment: bytes) -> bytes:
        content = fragment.rstrip(b"\0")
        if content[-1:] != bytes([HANDSHAKE]):
            return fragment
        return self._filled(content[:-1]) + fragment[len(content) - 1 :]

    def _change_keys(self, fragment: bytes) -> None:
        secrets = (b"", self.handshake_secrets[self.own_side], self.application_secrets[self.own_side])
        secret = secrets[fragment[0] % 3] if fragment else b""
        self.next_key = self.schedule.record_key(secret) if secret else None

    # Messages as they go out

    def _filled(self, fragment: bytes) -> bytes:
        """The fragment with what only the peer knows; messages that end in it are taken note of."""
        out = b""
        while fragment:
            piece = self._mask_next(fragment[: self._missing()])
            fragment = fragment[len(piece) :]
            out += piece
            self._message += piece
            if len(self._message) == 4:
                self._mask = bytes(4) + self.mask(self._message[0], fragment[: self._missing()])
            if len(self._message) >= 4 and not self._missing():
                data = bytes(self._message)
                self._message.clear()
                self._mask = b""
                self.spoken.append(data[0])
                # Whoever goes on without the answer does not know what the transcript is.
                self.in_step &= not self._waits
                self.sent_message(data)
        return out

    def _missing(self) -> int:
        """How many bytes complete the message's header, or the message."""
        have = len(self._message)
        return 4 - have if have < 4 else 4 + int.from_bytes(self._message[1:4]) - have

    def _mask_next(self, piece: bytes) -> bytes:
        mask = self._mask[len(self._message) :]
        return bytes(one ^ two for one, two in zip(piece, mask, strict=False)) + piece[len(mask) :]

    def mask(self, message_type: int, _body: bytes) -> bytes:
        """What to XOR onto the body of a message, of which so much is known."""
        if self._schedule is None:
            return b""
        if message_type == MessageType.FINISHED:
            return self.schedule.verify_data(self.handshake_secrets[self.own_side], self.transcript)
        if message_type == MessageType.CERTIFICATE_VERIFY:
            content = signed_content(self.role, self.transcript, self.schedule.suite.hash_name)
            return bytes(4) + signature_over(self.identity, _ED25519, content)
        return b""

    def sent_message(self, data: bytes) -> None:
        """A whole message went out."""
        self.transcript.update(data)

    # Keys

    def _make_schedule(self, suite: int, shared: bytes | None, psk: PreSharedKey | None) -> None:
        self._schedule = KeySchedule(SUITES_BY_NUMBER[suite], psk=psk.secret if psk is not None else None)
        self.schedule.mix(shared)
        client = self.schedule.traffic_secret(b"c hs traffic", self.transcript)
        server = self.schedule.traffic_secret(b"s hs traffic", self.transcript)
        self.handshake_secrets = (client, server)
        self.expect(Protection.HANDSHAKE, self.handshake_secrets[1 - self.own_side])
        self._read_records()

    def _make_application_secrets(self) -> None:
        self.schedule.mix(None)
        client = self.schedule.traffic_secret(b"c ap traffic", self.transcript)
        server = self.schedule.traffic_secret(b"s ap traffic", self.transcript)
        self.application_secrets = (client, server)
        self.expect(Protection.APPLICATION, self.application_secrets[1 - self.own_side])

    # The end

    @abc.abstractmethod
    def due(self, completed: HandshakeCompleted) -> bytes:
        """The types of the messages that such a handshake takes of the peer, as a regular expression."""

    def assert_agreement(self) -> None:
        """A handshake that completed left nothing out, has one outcome on both sides, and a peer that is who it says."""
        assert_sound(self._event)
        if isinstance(self._event, HandshakeFailed):
            self._assert_told(self._event.failure)
        if not isinstance(self._event, HandshakeCompleted):
            return
        assert re.fullmatch(self.due(self._event), self.spoken), self.spoken
        secrets = self.tls.extract_secrets()
        own, theirs = (self.application_secrets[side] for side in (self.own_side, 1 - self.own_side))
        assert secrets == KernelSecrets(
            version=0x0304,
            cipher=self.schedule.suite.ktls,
            tx=self.schedule.record_key(theirs).traffic_key(),
            rx=self.schedule.record_key(own).traffic_key(),
        )
        assert self._event.psk_identity in {None, *_BY_NAME}
        if self._event.peer is not None:
            assert self._event.peer.chain[0] == self.identity.chain[0], (
                "the peer has no other key to sign with"
            )

    def _assert_told(self, failure: Failure) -> None:
        """The alert of a failure came under keys that the peer has."""
        if failure.alert is None or failure.cause is Cause.PEER_ALERT or not self.in_step:
            return
        verdict = self.verdict()
        assert (verdict.alert, verdict.level) == (failure.alert, 2), failure.reason


def _retry(hello: bytes) -> bool:
    return hello[6:38] == messages.HELLO_RETRY_RANDOM


class ServerPeer(Peer):
    """A server, against a client's engine."""

    role = "server"
    identity = SERVER
    own_side = 1

    def due(self, completed: HandshakeCompleted) -> bytes:
        return rb"\x02{1,2}\x08\x0d?\x0b\x0f\x14" if completed.psk_identity is None else rb"\x02{1,2}\x08\x14"

    def sent_message(self, data: bytes) -> None:
        first = self.received[MessageType.CLIENT_HELLO]
        if data[0] == MessageType.SERVER_HELLO and self._schedule is None:
            self._sent_hello(data, first)
            return
        super().sent_message(data)
        if data[0] == MessageType.FINISHED and self._schedule is not None and not self.application_secrets[0]:
            self._make_application_secrets()
            self.next_key = self.schedule.record_key(self.application_secrets[1])

    def _sent_hello(self, data: bytes, first: bytes) -> None:
        try:
            hello = messages.read_server_hello(data)
            suite = SUITES_BY_NUMBER[hello.cipher_suite]
        except _UNREADABLE:
            return  # the engine does not go on either
        if _retry(data):
            self.transcript = Transcript()
            self.transcript.update(message_hash(first, suite.hash_name))
            self.transcript.update(data)
            self._waits = True
            return
        self.transcript.update(data)
        extensions = dict(hello.extensions)
        self._make_schedule(hello.cipher_suite, self._shared(extensions), self._chosen(extensions))
        self.next_key = self.schedule.record_key(self.handshake_secrets[1])

    def _shared(self, extensions: dict[int, bytes]) -> bytes | None:
        share = extensions.get(Type.KEY_SHARE)
        if share is None:
            return None
        client = messages.read_client_hello(self.received[MessageType.CLIENT_HELLO])
        group = int.from_bytes(share[:2])
        theirs = messages.read_client_shares(client).get(group)
        if theirs is None:
            return None
        private, public = own_share(group)
        self.in_step &= share[4:] == public
        return GROUPS_BY_NUMBER[group].exchange_untrusted(private, theirs)

    def _chosen(self, extensions: dict[int, bytes]) -> PreSharedKey | None:
        offered = offered_names(self.received[MessageType.CLIENT_HELLO])
        index = int.from_bytes(extensions.get(Type.PRE_SHARED_KEY, b"\xff\xff"))
        return _BY_NAME.get(offered[index]) if index < len(offered) else None


def offered_names(client_hello: bytes) -> list[bytes]:
    """The identities of a ClientHello, none where it has none or can't be read."""
    names = []
    try:
        hello = messages.read_client_hello(client_hello)
        listed = Reader(Reader(dict(hello.extensions)[Type.PRE_SHARED_KEY]).vector(2))
        while not listed.done:
            names.append(listed.vector(2))
            listed.take(4)
    except _UNREADABLE:
        return []
    return names


class ClientPeer(Peer):
    """A client, against a server's engine."""

    role = "client"
    identity = CLIENT

    def due(self, completed: HandshakeCompleted) -> bytes:
        if completed.psk_identity is not None:
            return rb"\x01{1,2}\x14"
        return rb"\x01{1,2}\x0b\x14" if completed.peer is None else rb"\x01{1,2}\x0b\x0f\x14"

    def __init__(self, engine: TlsEngine) -> None:
        super().__init__(engine)
        self._hellos: list[bytes] = []
        self._retried = False

    def mask(self, message_type: int, _body: bytes) -> bytes:
        if message_type == MessageType.CLIENT_HELLO:
            return self._binders(bytes(self._message) + _body)
        return super().mask(message_type, _body)

    def _binders(self, hello: bytes) -> bytes:
        """The binders where they belong in the body, behind zeros."""
        keys = [_BY_NAME.get(name) for name in offered_names(hello)]
        sizes = [HASHES[key.hash_name].digest_size if key is not None else 32 for key in keys]
        length = 2 + sum(1 + size for size in sizes)
        start = len(hello) - length
        if not keys or hello[start : start + 2] != (length - 2).to_bytes(2):
            return b""
        mask = bytes(start - 4 + 2)
        for key, size in zip(keys, sizes, strict=True):
            binder = compute_binder(key, self.transcript, hello[:start]) if key is not None else bytes(size)
            mask += b"\0" + binder
        return mask

    def sent_message(self, data: bytes) -> None:
        super().sent_message(data)
        if data[0] == MessageType.CLIENT_HELLO:
            self._hellos.append(data)
            self._waits = True
        elif data[0] == MessageType.FINISHED and self.application_secrets[0]:
            self.next_key = self.schedule.record_key(self.application_secrets[0])

    def react(self) -> None:
        hello = self.received.get(MessageType.SERVER_HELLO)
        if hello is None or self._schedule is not None or len(self._hellos) <= self._retried:
            return  # the hello may have gone out as raw bytes: that handshake leads nowhere
        parsed = messages.read_server_hello(hello)
        if _retry(hello):
            self._restart(hello, parsed.cipher_suite)
            return
        extensions = dict(parsed.extensions)
        self._make_schedule(parsed.cipher_suite, self._shared(extensions), self._chosen(extensions))
        self.next_key = self.schedule.record_key(self.handshake_secrets[0])
        if MessageType.FINISHED in self.received:
            self._make_application_secrets()

    def _restart(self, hello: bytes, suite: int) -> None:
        if self._retried:
            return
        self._retried = True
        self.transcript = Transcript()
        self.transcript.update(message_hash(self._hellos[0], SUITES_BY_NUMBER[suite].hash_name))
        self.transcript.update(hello)

    def _shared(self, extensions: dict[int, bytes]) -> bytes | None:
        if Type.KEY_SHARE not in extensions:
            return None
        share = Reader(extensions[Type.KEY_SHARE])
        group = share.number(2)
        private, public = own_share(group)
        hello = messages.read_client_hello(self._answered_hello())
        self.in_step &= messages.read_client_shares(hello)[group] == public
        return GROUPS_BY_NUMBER[group].exchange_untrusted(private, share.vector(2))

    def _chosen(self, extensions: dict[int, bytes]) -> PreSharedKey | None:
        if Type.PRE_SHARED_KEY not in extensions:
            return None
        return _BY_NAME[
            offered_names(self._answered_hello())[int.from_bytes(extensions[Type.PRE_SHARED_KEY])]
        ]

    def _answered_hello(self) -> bytes:
        """The one that ServerHello answers; more may be in the same record, which the engine refuses."""
        return self._hellos[1 if self._retried else 0]
