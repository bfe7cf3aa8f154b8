"""Byte streams and messages of other projects, through the engines of every situation: no defect, no delay."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ktls_agent.sansio.status import Cause
from ktls_agent.sansio.tls.errors import HandshakeError
from ktls_agent.sansio.tls.parameters import HandshakeFailed
from tests.conformance.situations import Situation, each, judged, positions
from tests.peers.adversary import sends

PATIENCE: Final = 1.0
"""Seconds for one input; it takes milliseconds."""


def streams(folder: Path) -> Iterator[bytes]:
    for file in sorted(folder.glob("tls-seeds/*/*")):
        yield file.read_bytes()


@each()
def test_seeds_in_plaintext(situation: Situation, shared_data: Path) -> None:
    count = 0
    for data in streams(shared_data):
        started, engine = time.monotonic(), situation.peer().engine
        engine.receive_data(data)
        engine.receive_data(b"")
        event = engine.next_event()
        assert isinstance(event, HandshakeFailed)
        assert event.failure.cause is not Cause.INTERNAL, event.failure.reason
        assert time.monotonic() - started < PATIENCE
        count += 1
    assert count > 200


@each()
def test_messages_at_every_position(situation: Situation, shared_data: Path) -> None:
    files = sorted(shared_data.glob("tls-messages/*.bin"))
    assert files
    for file in files:
        for position in positions(situation):
            peer, started = situation.peer(), time.monotonic()
            script = situation.script(peer)
            try:
                verdict = judged(peer, [*script[:position], sends(file.read_bytes()), *script[position:]])
            except HandshakeError:  # the adversary's own: the answer is to another hello than its own
                verdict = peer.verdict()
            if isinstance(verdict.event, HandshakeFailed):
                assert verdict.event.failure.cause is not Cause.INTERNAL, verdict.reason
            assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("folder", ["client", "psk_client", "server", "psk_server"])
def test_there_are_seeds_of_each_kind(folder: str, shared_data: Path) -> None:
    assert list((shared_data / "tls-seeds" / folder).iterdir())
