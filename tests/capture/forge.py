"""A handshake that was overheard, opened with its key log, changed, and sealed again under the same secrets.

forged = Forged.of(heard)
forged.server[0] = messages.encrypted_extensions([messages.alpn(b"other")])
examine_stream(forged.stream(), forged.log)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ktls_agent.sansio.capture import keylog
from ktls_agent.sansio.capture.foreign_records import TcpStream
from ktls_agent.sansio.capture.keylog import KeyLog, parse_keylog_untrusted
from ktls_agent.sansio.tls.primitives import SUITES_BY_NUMBER, CipherSuite, RecordKey, Transcript
from tests.capture.openssl import Overheard
from tests.capture.streams import overheard_stream, with_data
from tests.peers import messages
from tests.peers.adversary import KeySchedule

HANDSHAKE, ALERT, DATA = 22, 21, 23
Content = tuple[int, bytes]


def cut(data: bytes) -> list[bytes]:
    """Cut bytes into records."""
    records = []
    while data:
        end = 5 + int.from_bytes(data[3:5])
        records.append(data[:end])
        data = data[end:]
    return records


def split(flight: bytes) -> list[bytes]:
    """Cut handshake bytes into messages."""
    found = []
    while flight:
        end = 4 + int.from_bytes(flight[1:4])
        found.append(flight[:end])
        flight = flight[end:]
    return found


def seal(suite: CipherSuite, secret: bytes, contents: Iterable[Content]) -> bytes:
    """Each content as one record, under the keys of a traffic secret from the first on."""
    key, sealed = RecordKey.from_traffic_secret(suite, secret), b""
    for kind, content in contents:
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2)
        sealed += header + key.seal(content + bytes([kind]), header)
    return sealed


@dataclass(kw_only=True)
class Forged:
    """The parts of a handshake, each of which may be changed."""

    heard: Overheard
    log: KeyLog
    client_hello: messages.ClientHello
    server_hello: messages.ServerHello
    server: list[bytes]
    client: list[bytes]
    server_data: list[Content]
    client_data: list[Content]

    @classmethod
    def of(cls, heard: Overheard) -> "Forged":
        log = parse_keylog_untrusted(heard.keylog)
        client, server = cut(heard.said_by(client=True)), cut(heard.said_by(client=False))
        client_hello = messages.read_client_hello(client[0][5:])
        server_hello = messages.read_server_hello(server[0][5:])
        forged = cls(
            heard=heard,
            log=log,
            client_hello=client_hello,
            server_hello=server_hello,
            server=[],
            client=[],
            server_data=[],
            client_data=[(DATA, b"ping")],
        )
        forged.server = forged._opened(keylog.SERVER_HANDSHAKE, server[1:])
        forged.client = forged._opened(keylog.CLIENT_HANDSHAKE, client[1:])
        return forged

    @property
    def suite(self) -> CipherSuite:
        return SUITES_BY_NUMBER[self.server_hello.cipher_suite]

    def secret(self, label: str) -> bytes:
        secret = self.log.secret(self.client_hello.random, label)
        assert secret is not None
        return secret

    def _opened(self, label: str, records: list[bytes]) -> list[bytes]:
        key, flight = RecordKey.from_traffic_secret(self.suite, self.secret(label)), b""
        for record in records:
            if record[0] == DATA and (inner := key.open_untrusted(record[5:], record[:5])) is not None:
                flight += inner.rstrip(b"\0")[:-1]
        return split(flight)

    def finish(self) -> None:
        """Make the server's Finished fit what comes before it."""
        transcript = Transcript()
        for message in (self.client_hello.write(), self.server_hello.write(), *self.server[:-1]):
            transcript.update(message)
        verify = KeySchedule(self.suite).verify_data(self.secret(keylog.SERVER_HANDSHAKE), transcript)
        self.server[-1] = messages.message(messages.MessageType.FINISHED, verify)

    def _plain(self, message: bytes) -> bytes:
        return b"\x16\x03\x03" + len(message).to_bytes(2) + message

    def stream(self) -> TcpStream:
        """The stream that all of it makes."""
        suite = SUITES_BY_NUMBER.get(self.server_hello.cipher_suite, SUITES_BY_NUMBER[0x1302])

        def side(
            hello: bytes, handshake: str, flight: list[bytes], application: str, data: list[Content]
        ) -> bytes:
            sealed = seal(suite, self.secret(handshake), [(HANDSHAKE, b"".join(flight))])
            return self._plain(hello) + sealed + seal(suite, self.secret(application), data)

        return with_data(
            overheard_stream(self.heard),
            client=side(
                self.client_hello.write(),
                keylog.CLIENT_HANDSHAKE,
                self.client,
                keylog.CLIENT_APPLICATION,
                self.client_data,
            ),
            server=side(
                self.server_hello.write(),
                keylog.SERVER_HANDSHAKE,
                self.server,
                keylog.SERVER_APPLICATION,
                self.server_data,
            ),
        )
