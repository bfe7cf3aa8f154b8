"""Handshakes of OpenSSL with itself, in memory: what each side said, and the key log."""

import contextlib
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pki import Issued
from tests.tls.handshakes import SERVER_NAME, authority, issued

Turn = tuple[bool, bytes]
"""Does the client speak, and what it says at once."""


@dataclass(kw_only=True)
class Overheard:
    """What was said on a connection.

    Attributes:
        turns: In its order.
        keylog: The text of the key log.
        error: How it failed, or None.
        session: The client's session after it.
    """

    turns: list[Turn] = field(default_factory=list)
    keylog: bytes = b""
    error: ssl.SSLError | None = None
    session: Any = None

    def said_by(self, *, client: bool) -> bytes:
        return b"".join(data for by_client, data in self.turns if by_client is client)


class _Wire:
    """Carries what one side says to the other, and notes it."""

    def __init__(self, heard: Overheard) -> None:
        self.heard = heard
        self.outgoing = {True: ssl.MemoryBIO(), False: ssl.MemoryBIO()}
        self.incoming = {True: ssl.MemoryBIO(), False: ssl.MemoryBIO()}

    def act(self, work: Callable[[], object], *, client: bool) -> None:
        """Let one side do something, and carry what it says, an alert too."""
        try:
            with contextlib.suppress(ssl.SSLWantReadError):
                work()
        finally:
            if said := self.outgoing[client].read():
                self.incoming[not client].write(said)
                self.heard.turns.append((client, said))


@dataclass(kw_only=True)
class Peers:
    """A client and a server of OpenSSL that write one key log."""

    log: Path
    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def make(cls, folder: Path, *, server: Issued | None = None, client: Issued | None = None) -> "Peers":
        log = Path(tempfile.mkdtemp(dir=folder), "keys")
        return cls(
            log=log,
            server=_context(ssl.PROTOCOL_TLS_SERVER, log, server or issued()),
            client=_context(ssl.PROTOCOL_TLS_CLIENT, log, client),
        )

    def talk(self, *, data: bytes = b"ping", session: Any = None) -> Overheard:
        """Shake hands, and pass data both ways."""
        heard = Overheard()
        wire = _Wire(heard)
        client = self.client.wrap_bio(
            wire.incoming[True], wire.outgoing[True], server_hostname=SERVER_NAME, session=session
        )
        server = self.server.wrap_bio(wire.incoming[False], wire.outgoing[False], server_side=True)
        try:
            for _ in range(3):
                wire.act(client.do_handshake, client=True)
                wire.act(server.do_handshake, client=False)
            if data:
                wire.act(lambda: client.write(data), client=True)
                assert server.read(len(data)) == data
                wire.act(lambda: server.write(data), client=False)
                assert client.read(len(data)) == data
        except ssl.SSLError as error:
            heard.error = error
        heard.session = client.session if heard.error is None else None
        heard.keylog = self.log.read_bytes() if self.log.exists() else b""
        return heard


def _context(role: int, log: Path, identity: Issued | None) -> ssl.SSLContext:
    context = ssl.SSLContext(role)
    context.load_verify_locations(cadata=authority().pem().decode())
    context.keylog_filename = str(log)
    if identity is not None:
        path = log.with_name("identity.pem")
        path.write_bytes(identity.certificate_pem() + identity.private_key_pem())
        context.load_cert_chain(path)
    return context
