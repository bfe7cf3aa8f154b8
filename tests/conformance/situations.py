"""Every kind of handshake that an engine can be in, with an honest peer whose script a test then spoils.

    for situation in SITUATIONS:
        peer = situation.peer()
        verdict = peer.run(before(situation.script(peer), "finished", sends(KEY_UPDATE)))
        refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(script, position))

A situation knows under which keys the engine's alert is due at each place of the script, and which messages may come
there.  `refused` looks at the alert on the wire, at its keys, and at the failure's being final.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls.parameters import HandshakeFailed
from tests.peers.adversary import (
    Adversary,
    ClientAdversary,
    Protection,
    ServerAdversary,
    Step,
    StuckError,
    Verdict,
)
from tests.peers.messages import MessageType
from tests.peers.psk import SHA256, PskClient, offering, psk_client, psk_server
from tests.tls.handshakes import (
    client_engine,
    client_identity,
    identity,
    mutual_client,
    mutual_server,
    server_engine,
)

TYPES: Final = {
    "client_hello": MessageType.CLIENT_HELLO,
    "second_client_hello": MessageType.CLIENT_HELLO,
    "hello_retry_request": MessageType.SERVER_HELLO,
    "server_hello": MessageType.SERVER_HELLO,
    "encrypted_extensions": MessageType.ENCRYPTED_EXTENSIONS,
    "certificate_request": MessageType.CERTIFICATE_REQUEST,
    "certificate": MessageType.CERTIFICATE,
    "certificate_verify": MessageType.CERTIFICATE_VERIFY,
    "finished": MessageType.FINISHED,
}
"""The steps that send a message, with its type."""


def refused(peer: Adversary, verdict: Verdict, alert: Alert, protection: Protection) -> None:
    """The engine sent that alert, fatal, under those keys, and has nothing more to say."""
    assert isinstance(verdict.event, HandshakeFailed), verdict
    assert verdict.event.failure.cause is not Cause.INTERNAL, verdict.reason
    assert verdict.event.failure.cause is not Cause.PEER_ALERT, verdict.reason
    assert (verdict.alert, verdict.protection, verdict.level) == (alert, protection, 2), verdict.reason
    final(peer)


def final(peer: Adversary) -> None:
    """Whatever else comes, a failed engine says nothing and tells nothing."""
    for more in (b"\x16\x03\x03\x00\x04\x14\x00\x00\x00", b"\x15\x03\x03\x00\x02\x02\x28", b""):
        peer.engine.receive_data(more)
        assert peer.engine.data_to_send() == b""
        assert peer.engine.next_event() is None


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One kind of handshake.

    Attributes:
        name: For the test's id: the role of the engine first.
        make: Makes the peer, against a new engine.
        options: What its `script` is called with.
    """

    name: str
    make: Callable[[], Any]
    options: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        """The role of the engine."""
        return self.name.split()[0]

    @property
    def retried(self) -> bool:
        return "hello_retry" in self.options

    def peer(self) -> Any:
        return self.make()

    def script(self, peer: Any) -> list[Step]:
        script: list[Step] = peer.script(**dict.fromkeys(self.options, True))
        return script

    def names(self) -> list[str]:
        """The names of the honest script's steps, up to the one that ends the handshake."""
        names = [step.name for step in self.script(self.peer())]
        return names[: names.index("finished") + 1]

    def keyed_at(self, position: int) -> bool:
        """Does the engine have keys when it gets what is sent before that step?"""
        last_hello = "server_hello" if self.role == "client" else self._last_client_hello()
        return last_hello in self.names()[:position]

    def _last_client_hello(self) -> str:
        return "second_client_hello" if self.retried else "client_hello"

    def protected_at(self, position: int) -> bool:
        """Does the peer protect what it sends before that step?"""
        return "handshake_keys" in self.names()[:position]

    def protection_at(self, position: int) -> Protection:
        """What an alert over something before that step comes under."""
        if not self.keyed_at(position):
            return Protection.NONE
        # A server is done with its own flight before it reads on (RFC 8446, 4.4.4 and the figure in 2).
        return Protection.HANDSHAKE if self.role == "client" else Protection.APPLICATION

    def due_at(self, position: int) -> set[int]:
        """The types of messages that are in order before that step."""
        if self.keyed_at(position) and not self.protected_at(position):
            return set()
        names = self.names()
        due = next(TYPES[name] for name in names[position:] if name in TYPES)
        # A server may ask for a certificate, or not, before it presents its own.
        asked = self.role == "server" or "certificate_request" in names[:position]
        either: set[int] = {MessageType.CERTIFICATE_REQUEST, MessageType.CERTIFICATE}
        return either if due in either and not asked else {due}


def server_peer(**changes: Any) -> ServerAdversary:
    """A server against a client that has a certificate."""
    return ServerAdversary(client_engine(mutual_client()), identity(), **changes)


def client_peer(**changes: Any) -> ClientAdversary:
    """A client with a certificate, against a server that wants one."""
    return ClientAdversary(server_engine(mutual_server()), client_identity(), **changes)


def anonymous_peer(**changes: Any) -> ClientAdversary:
    """A client without a certificate, against a server that wants none."""
    return ClientAdversary(server_engine(), **changes)


def psk_client_peer(**changes: Any) -> PskClient:
    return psk_client(None, SHA256, **changes)


SITUATIONS: Final = (
    Situation(name="client x509", make=server_peer),
    Situation(name="client mutual", make=server_peer, options=("client_certificate",)),
    Situation(
        name="client mutual retried",
        make=lambda: server_peer(group="secp384r1"),
        options=("client_certificate", "hello_retry"),
    ),
    Situation(name="client psk", make=lambda: psk_server(offering(SHA256))),
    Situation(
        name="client psk retried",
        make=lambda: psk_server(offering(SHA256), group="secp384r1"),
        options=("hello_retry",),
    ),
    Situation(name="server x509", make=anonymous_peer),
    Situation(name="server mutual", make=client_peer, options=("certificate",)),
    Situation(
        name="server mutual retried",
        make=lambda: client_peer(share_sent=False),
        options=("certificate", "hello_retry"),
    ),
    Situation(name="server psk", make=psk_client_peer),
    Situation(
        name="server psk retried", make=lambda: psk_client_peer(share_sent=False), options=("hello_retry",)
    ),
)

ROLES: Final = tuple(item for item in SITUATIONS if item.name in ("client mutual", "server mutual"))
"""One situation for each role, for what does not depend on the kind of handshake."""


def each(situations: Sequence[Situation] = SITUATIONS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("situation", situations, ids=lambda item: item.name)


def positions(situation: Situation) -> range:
    """The places before each step, up to the last."""
    return range(len(situation.names()))


def spoiled(situation: Situation, position: int, *steps: Step) -> tuple[Any, Verdict]:
    """Run the honest script with further steps before one of its own."""
    peer = situation.peer()
    script = situation.script(peer)
    return peer, judged(peer, [*script[:position], *steps, *script[position:]])


def judged(peer: Adversary, script: Sequence[Step]) -> Verdict:
    """Run a script that may get stuck where the engine has failed."""
    try:
        return peer.run(script)
    except StuckError:
        return peer.verdict()
