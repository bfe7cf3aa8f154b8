"""What the kernel does with the keys: the TLS 1.3 record layer of kTLS, in user space and without I/O.

    records = KtlsRecords(tx=crypto_info, rx=crypto_info)       # what setsockopt(SOL_TLS, ...) was given
    sock.sendall(records.seal(b"data"))
    for record in records.receive_data_untrusted(sock.recv(65536)): ...

It starts from the very bytes that the kernel would get, so whoever exchanges records with it has shown that they are
right: the keys, the order of salt and IV, and the sequence numbers.
"""

from dataclasses import dataclass
from typing import Final

from ..ktls import unpack_crypto_info_untrusted
from ..tls.primitives import SUITES_BY_NAME, TAG_LENGTH, RecordKey
from ..tls.records import HEADER_LENGTH, MAX_CIPHERTEXT, MAX_PLAINTEXT, RECORD_VERSION, ContentType

_SUITES_BY_CIPHER: Final = {suite.ktls: suite for suite in SUITES_BY_NAME.values()}


class RecordError(Exception):
    """The peer sent what is no record under these keys: the kernel would answer EBADMSG or EMSGSIZE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record, opened.

    Attributes:
        content_type: As in RFC 8446, 5.1: 23 is data, 22 a handshake message such as NewSessionTicket, 21 an alert.
        data: What it holds.
    """

    content_type: int
    data: bytes


class KtlsRecords:
    """Both directions of one connection; see the module's docstring."""

    def __init__(self, *, tx: bytes, rx: bytes) -> None:
        """Take the keys.

        Args:
            tx: A `struct tls12_crypto_info_*`, as TLS_TX gets it.
            rx: The same for TLS_RX.

        Raises:
            CryptoInfoError: One of them is not what the kernel takes.
        """
        self._tx = _record_key(tx)
        self._rx = _record_key(rx)
        self._input = bytearray()

    def seal(self, data: bytes, content_type: int = ContentType.APPLICATION_DATA) -> bytes:
        """Make as many records as `data` takes."""
        return b"".join(
            self._seal_one(data[start : start + MAX_PLAINTEXT], content_type)
            for start in range(0, len(data), MAX_PLAINTEXT)
        )

    def receive_data_untrusted(self, data: bytes) -> list[Record]:
        """Take bytes from the peer and return the records that they complete.

        Raises:
            RecordError: They are not records under these keys.
        """
        self._input += data
        records = []
        while (record := self._take_record()) is not None:
            records.append(record)
        return records

    def _seal_one(self, fragment: bytes, content_type: int) -> bytes:
        length = len(fragment) + 1 + TAG_LENGTH
        header = bytes([ContentType.APPLICATION_DATA]) + RECORD_VERSION + length.to_bytes(2)
        return header + self._tx.seal(fragment + bytes([content_type]), header)

    def _take_record(self) -> Record | None:
        if len(self._input) < HEADER_LENGTH:
            return None
        header = bytes(self._input[:HEADER_LENGTH])
        length = int.from_bytes(header[3:])
        if header[0] != ContentType.APPLICATION_DATA or length > MAX_CIPHERTEXT:
            raise RecordError(f"A record of type {header[0]} and {length} bytes is not one of TLS 1.3's.")
        end = HEADER_LENGTH + length
        if len(self._input) < end:
            return None
        body = bytes(self._input[HEADER_LENGTH:end])
        del self._input[:end]
        return self._open(body, header)

    def _open(self, body: bytes, header: bytes) -> Record:
        inner = self._rx.open_untrusted(body, header)
        if inner is None:
            raise RecordError(f"Record {self._rx.sequence} does not decrypt under the keys of TLS_RX.")
        content = inner.rstrip(b"\0")
        if not content:
            raise RecordError("A record holds no content type.")
        return Record(content_type=content[-1], data=content[:-1])


def _record_key(crypto_info: bytes) -> RecordKey:
    cipher, key = unpack_crypto_info_untrusted(crypto_info)
    return RecordKey(suite=_SUITES_BY_CIPHER[cipher], key=key.key, iv=key.iv, sequence=key.sequence)
