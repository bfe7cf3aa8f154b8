"""Messages out of order (RFC 8446, 4 and A): each type at each place, for both roles and every kind of handshake."""

from typing import Final

import pytest

from ktls_agent.sansio.status import Alert
from tests.conformance.situations import SITUATIONS, TYPES, Situation, each, positions, refused, spoiled
from tests.peers import messages
from tests.peers.adversary import sends, twice, without
from tests.peers.messages import HELLO_RETRY_RANDOM, MessageType, Type, message, vector

CLIENT_HELLO = messages.ClientHello(
    random=b"r" * 32, cipher_suites=[0x1301], extensions=[messages.client_versions(0x0304)]
)
VERSION: Final = (Type.SUPPORTED_VERSIONS, b"\x03\x04")
MESSAGES: Final = {
    "HelloRequest": message(0, b""),
    "ClientHello": CLIENT_HELLO.write(),
    "ServerHello": messages.ServerHello(random=b"r" * 32, cipher_suite=0x1301, extensions=[VERSION]).write(),
    "HelloRetryRequest": messages.ServerHello(
        random=HELLO_RETRY_RANDOM, cipher_suite=0x1301, extensions=[VERSION, (Type.COOKIE, b"\0\1c")]
    ).write(),
    "HelloVerifyRequest": message(3, b"\xfe\xff\0"),
    "NewSessionTicket": message(4, bytes(8) + b"\0" + vector(b"ticket", 2) + b"\0\0"),
    "EndOfEarlyData": message(5, b""),
    "EncryptedExtensions": messages.encrypted_extensions(),
    "Certificate": messages.certificate([]),
    "ServerKeyExchange": message(12, bytes(40)),
    "CertificateRequest": messages.certificate_request([messages.signature_algorithms(0x0403)]),
    "ServerHelloDone": message(14, b""),
    "CertificateVerify": messages.certificate_verify(0x0403, bytes(70)),
    "ClientKeyExchange": message(16, bytes(33)),
    "Finished": message(20, bytes(32)),
    "CertificateUrl": message(21, bytes(8)),
    "CertificateStatus": message(22, b"\1\0\0\1\0"),
    "KeyUpdate": message(24, b"\0"),
    "CompressedCertificate": message(25, b"\0\1\0\0\1\0\0\1\0"),
    "MessageHash": message(254, bytes(32)),
    "unknown": message(77, b""),
    "last": message(255, b""),
}


@each()
def test_every_message_at_every_position(situation: Situation) -> None:
    for position in positions(situation):
        for name, data in MESSAGES.items():
            if data[0] in situation.due_at(position):
                continue
            peer, verdict = spoiled(situation, position, sends(data))
            assert verdict.alert is not None, (position, name)
            refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


def removable() -> list[tuple[Situation, str]]:
    """Messages behind the hellos that can be left out, with one behind them that shows it."""
    rest = {"encrypted_extensions", "certificate", "certificate_verify"}
    return [(item, name) for item in SITUATIONS for name in item.names() if name in rest]


@pytest.mark.parametrize(
    ("situation", "name"), removable(), ids=lambda item: item if isinstance(item, str) else item.name
)
def test_a_message_left_out(situation: Situation, name: str) -> None:
    peer = situation.peer()
    verdict = peer.run(without(situation.script(peer), name))
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(len(situation.names())))


def repeatable() -> list[tuple[Situation, str]]:
    rest = {"encrypted_extensions", "certificate_request", "certificate", "certificate_verify"}
    return [(item, name) for item in SITUATIONS for name in item.names() if name in rest]


@pytest.mark.parametrize(
    ("situation", "name"), repeatable(), ids=lambda item: item if isinstance(item, str) else item.name
)
def test_a_message_twice(situation: Situation, name: str) -> None:
    peer = situation.peer()
    verdict = peer.run(twice(situation.script(peer), name))
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(len(situation.names())))


def pairs() -> list[tuple[Situation, int, int]]:
    found = []
    for item in SITUATIONS:
        places = [
            place for place, name in enumerate(item.names()) if name in TYPES and item.protected_at(place)
        ]
        found += [(item, one, two) for one in places for two in places if one < two]
    return found


@pytest.mark.parametrize(
    ("situation", "first", "second"),
    pairs(),
    ids=lambda item: item.name if isinstance(item, Situation) else str(item),
)
def test_two_messages_in_each_others_places(situation: Situation, first: int, second: int) -> None:
    peer = situation.peer()
    script = situation.script(peer)
    script[first], script[second] = script[second], script[first]
    verdict = peer.run(script)
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(len(situation.names())))


@each()
def test_messages_that_only_come_after_a_handshake_come_too_early(situation: Situation) -> None:
    """NewSessionTicket, KeyUpdate, and a CertificateRequest of post-handshake authentication."""
    late = (
        MESSAGES["NewSessionTicket"],
        MESSAGES["KeyUpdate"],
        messages.certificate_request([messages.signature_algorithms(0x0403)], context=b"post"),
    )
    position = len(situation.names()) - 1
    for data in late:
        peer, verdict = spoiled(situation, position, sends(data))
        refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


def test_the_table_of_messages_has_every_type() -> None:
    assert {int(kind) for kind in MessageType} <= {data[0] for data in MESSAGES.values()}
