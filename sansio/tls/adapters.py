"""Our primitives in the shape in which tlslite-ng calls them.

Nothing here imports tlslite-ng; the names of methods and attributes are those that its handshake uses.
"""

import hmac
from typing import Any, Final

from ..steps import Encapsulated, SecretLogged, Signed, Trace, no_trace
from .hybrid import Encapsulate, Hybrid
from .parameters import Identity, PublicKey, key_kind
from .primitives import (
    SUITES_BY_NUMBER,
    Group,
    RecordKey,
    sign,
    signature_is_valid,
)
from .records import RecordReader, RecordWriter

CIPHER_NAMES: Final = {
    "AES_256_GCM": "aes256gcm",
    "AES_128_GCM": "aes128gcm",
    "CHACHA20_POLY1305": "chacha20-poly1305",
    "AES_128_CCM": "aes128ccm",
}
_SECRET_LABELS: Final = (
    ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET"),
    ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"),
)
"""In the order in which they are made, under the names of key log files (draft-ietf-tls-keylogfile)."""

_CURVE_NAMES: Final = {"secp256r1": "NIST256p", "secp384r1": "NIST384p", "secp521r1": "NIST521p"}


class VerifyData(bytearray):
    """A Finished's content, compared in constant time."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes | bytearray) and hmac.compare_digest(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


class NoBinders:
    """For tlslite-ng's HandshakeHelpers, which computes binders: `psk` has done it."""

    @staticmethod
    def update_binders(*_arguments: object) -> None:
        pass

    @staticmethod
    def verify_binder(*_arguments: object) -> bool:
        return True


class KeyExchange:
    """A group, called as tlslite-ng calls it."""

    def __init__(self, group: Group | Hybrid) -> None:
        self._group = group

    def calc_shared_key(self, private: Any, share: bytearray) -> bytes:
        return self._group.exchange_untrusted(private, bytes(share))


def traced(encapsulate: Encapsulate, trace: Trace) -> Encapsulate:
    """Tell what an encapsulation makes."""

    def encapsulate_and_tell(public_key: bytes) -> tuple[bytes, bytes]:
        secret, ciphertext = encapsulate(public_key)
        trace(Encapsulated(ciphertext=ciphertext, secret=secret))
        return secret, ciphertext

    return encapsulate_and_tell


class OwnKey:
    """An identity's private key, called as tlslite-ng calls it."""

    # tlslite-ng asks whether an RSA modulus is large enough for PSS with SHA-512: each accepted one is.
    n = 1 << 2048

    def __init__(self, identity: Identity, trace: Trace) -> None:
        self._key = identity.private_key
        self._trace = trace

    def sign(
        self, data: bytearray, _padding: str | None, hash_name: str, _salt_length: int | None
    ) -> bytearray:
        signature = sign(self._key, bytes(data), hash_name)
        self._trace(Signed(signature=signature))
        return bytearray(signature)

    hashAndSign = sign

    def verify(self, *_arguments: object) -> bool:
        return True  # what `cryptography` just signed is not checked again

    hashAndVerify = verify


class PeerKey:
    """A peer's public key, called as tlslite-ng calls it."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key
        self.curve_name = _CURVE_NAMES.get(key_kind(key), "")

    def verify(
        self,
        signature: bytearray,
        data: bytearray,
        _padding: str | None,
        hash_name: str,
        _salt_length: int | None,
    ) -> bool:
        return signature_is_valid(self._key, bytes(signature), bytes(data), hash_name)

    hashAndVerify = verify


class CertificateBytes:
    """A certificate that tlslite-ng carries, and never parses."""

    def __init__(self, der: bytes) -> None:
        self.bytes = der
        self.publicKey: PeerKey | None = None

    def writeBytes(self) -> bytes:
        return self.bytes


class NoSocket:
    """Stands where tlslite-ng has its socket; everything goes through `_getMsg` and `_sendMsg` instead."""

    buffer_writes = False
    padding_cb = None

    def flush(self) -> None:
        pass


class RecordProtection:
    """Record protection, as tlslite-ng's handshake handles it."""

    def __init__(self, *, is_client: bool, trace: Trace) -> None:
        self.client = is_client
        self.client_random = b""
        self._trace = trace
        self._labels = iter(_SECRET_LABELS)
        self.version: tuple[int, int] = (3, 1)
        self.tls13record = False
        self.reader = RecordReader(trace=trace)
        self.writer = RecordWriter(is_client=is_client, trace=trace)
        self._pending_read: RecordKey | None = None
        self._pending_write: RecordKey | None = None
        self.suite_number = 0

    def calcTLS1_3PendingState(
        self, suite_number: int, client_secret: bytes, server_secret: bytes, _implementations: object
    ) -> None:
        suite = SUITES_BY_NUMBER[suite_number]
        self._log_secrets(client_secret, server_secret)
        ours, theirs = (client_secret, server_secret) if self.client else (server_secret, client_secret)
        self._pending_write = RecordKey.from_traffic_secret(suite, ours)
        self._pending_read = RecordKey.from_traffic_secret(suite, theirs)
        self.suite_number = suite_number
        if self.client and self.writer.key is None:
            # tlslite-ng's client goes over to its handshake key only after the server's Finished: until then
            # its alerts would leave unprotected.
            self.changeWriteState()

    def _log_secrets(self, *secrets: bytes) -> None:
        if self._trace is no_trace:
            return
        for label, secret in zip(next(self._labels), secrets, strict=True):
            self._trace(SecretLogged(label=label, client_random=self.client_random, secret=bytes(secret)))

    def changeWriteState(self) -> None:
        if self._pending_write is not None:
            self.writer.key, self._pending_write = self._pending_write, None

    def changeReadState(self) -> None:
        if self._pending_read is not None:
            self.reader.change_key(self._pending_read)
            self._pending_read = None
