"""Alerts from the peer (RFC 8446, 6): plain and protected, at every place, of every kind and level."""

import pytest

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls.parameters import HandshakeFailed
from tests.conformance.situations import Situation, each, final, positions, refused, spoiled
from tests.peers.adversary import ALERT, sends_alert, sends_raw, sends_record


@each()
@pytest.mark.parametrize("level", [1, 2])
def test_every_alert_at_every_position_ends_the_handshake(situation: Situation, level: int) -> None:
    """6.2: an error alert is fatal whatever its level says, an unknown one too; none is answered."""
    for position in positions(situation):
        for alert in (*Alert, 1, 21, 41, 60, 77, 100, 111, 255):
            peer, verdict = spoiled(situation, position, sends_alert(alert, level))
            assert isinstance(verdict.event, HandshakeFailed), (position, alert)
            assert verdict.event.failure.cause is Cause.PEER_ALERT, verdict.reason
            assert verdict.alert is None
            final(peer)


@each()
@pytest.mark.parametrize("level", [0, 3, 255])
def test_the_level_says_nothing(situation: Situation, level: int) -> None:
    """6: AlertLevel can safely be ignored."""
    for position in positions(situation):
        _, verdict = spoiled(situation, position, sends_alert(Alert.HANDSHAKE_FAILURE, level))
        assert isinstance(verdict.event, HandshakeFailed)
        assert verdict.event.failure.cause is Cause.PEER_ALERT


@each()
@pytest.mark.parametrize(
    "body", [b"\x02", b"\x01", b"\x02\x28\x00", b"\x02\x28\x02\x28", b"\x01\x00\x02\x28", bytes(100)]
)
def test_an_alert_record_holds_one_alert(situation: Situation, body: bytes) -> None:
    """5.1: alerts are neither fragmented nor coalesced."""
    for position in positions(situation):
        peer, verdict = spoiled(situation, position, sends_record(ALERT, body))
        refused(peer, verdict, Alert.DECODE_ERROR, situation.protection_at(position))


@each()
def test_a_plain_alert_after_the_first_protected_record_is_an_attackers(situation: Situation) -> None:
    names = situation.names()
    protected = [n for n in positions(situation) if situation.protected_at(n)]
    for position in protected:
        peer, verdict = spoiled(situation, position, sends_raw(b"\x15\x03\x03\x00\x02\x02\x28"))
        if names[position - 1] == "handshake_keys":
            assert isinstance(verdict.event, HandshakeFailed)
            assert verdict.event.failure.cause is Cause.PEER_ALERT, "it had no keys yet"
        else:
            refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))
