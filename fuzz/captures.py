"""Targets of what reads recordings: transcripts, captures of others, key logs, and the messages in them."""

from pathlib import Path
from typing import Final

from ktls_agent.io_trio.captures import parse_capture_untrusted
from ktls_agent.sansio.capture.differences import describe_replay
from ktls_agent.sansio.capture.explain import explain
from ktls_agent.sansio.capture.foreign import correlate
from ktls_agent.sansio.capture.foreign_netlink import examine_netlink
from ktls_agent.sansio.capture.foreign_tls import examine_stream
from ktls_agent.sansio.capture.framing import CaptureError
from ktls_agent.sansio.capture.keylog import parse_keylog_untrusted
from ktls_agent.sansio.capture.messages import dissect_message_untrusted
from ktls_agent.sansio.capture.pcapng import encode_pcapng
from ktls_agent.sansio.capture.replay import replay, whole
from ktls_agent.sansio.capture.transcript import (
    TranscriptError,
    decode_transcript_untrusted,
    encode_transcript,
)
from ktls_agent.sansio.steps import Plaintext
from ktls_agent.sansio.tls.records import ContentType

from . import mutators
from .mutators import Mutator
from .target import Target

_GOLDEN: Final = Path(__file__).parent.parent / "tests" / "captures"
_TRANSCRIPTS: Final = ("refusal-server-expired", "nvme-sha256-target", "cancelled-client", "nfs4-mtls-server")

MAX_SHOWN: Final = 64 * 1024
"""Characters of what is said about a transcript, however strange."""


def transcript(data: bytes) -> None:
    """A transcript is read whole or refused; what is read can be written, explained, replayed and made pcapng."""
    try:
        decoded = decode_transcript_untrusted(data)
    except TranscriptError as error:
        assert 0 < len(str(error)) < 1000
        return
    assert decode_transcript_untrusted(encode_transcript(decoded)) == decoded
    for cut in (None, whole):
        assert sum(map(len, describe_replay(decoded, replay(decoded, cut=cut)))) < MAX_SHOWN
    assert explain(decoded).ladder is not None
    assert encode_pcapng(decoded)


def handshake_message(data: bytes) -> None:
    """A message of any bytes is taken apart as far as it makes sense."""
    found = dissect_message_untrusted(data)
    assert found.name.isprintable()
    assert all(value.isprintable() for detail in found.details for value in detail.values)


def capture_file(data: bytes) -> None:
    """A capture of any bytes is refused, or gives streams and datagrams that can be examined."""
    try:
        capture = parse_capture_untrusted(data)
    except CaptureError as error:
        assert 0 < len(str(error)) < 1000
        return
    log = parse_keylog_untrusted(capture.keylog)
    handshakes = [found for stream in capture.streams if (found := examine_stream(stream, log)) is not None]
    correlate(examine_netlink(capture.datagrams).requests, handshakes)


def key_log(data: bytes) -> None:
    """A key log of any bytes gives the lines that make sense."""
    log = parse_keylog_untrusted(data)
    assert log.unreadable >= 0
    assert all(len(random) == 32 for random, _label in log.secrets)


def _golden(suffix: str) -> list[bytes]:
    return [(_GOLDEN / f"{name}{suffix}").read_bytes() for name in _TRANSCRIPTS]


def _captures() -> list[bytes]:
    made = [encode_pcapng(decode_transcript_untrusted(data)) for data in _golden(".transcript")]
    foreign = [path.read_bytes() for path in sorted((_GOLDEN / "foreign").glob("nfs-mtls.*.pcap"))]
    return [*made, *foreign]


def _messages() -> list[bytes]:
    steps = [
        step
        for data in _golden(".transcript")
        for step in decode_transcript_untrusted(data).of_type(Plaintext)
        if step.content_type == ContentType.HANDSHAKE
    ]
    return sorted({step.data for step in steps})


def _key_logs() -> list[bytes]:
    return [path.read_bytes() for path in sorted((_GOLDEN / "foreign").glob("*.keys"))[:2]]


TARGETS: Final = (
    Target(
        run=transcript,
        seeds=lambda: _golden(".transcript"),
        mutator=Mutator(mutators.lines),
        weight=2,
        max_length=32768,
        edges_only=True,
        keep=60,
    ),
    Target(
        run=handshake_message, seeds=_messages, mutator=Mutator(mutators.MESSAGES), max_length=4096, keep=80
    ),
    Target(run=capture_file, seeds=_captures, weight=2, max_length=16384, edges_only=True, keep=40),
    Target(run=key_log, seeds=_key_logs, mutator=Mutator(mutators.lines), max_length=2048, keep=40),
)
