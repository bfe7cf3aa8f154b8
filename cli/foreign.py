"""Captures that others made, told in text: what `ktls-agent replay` does with pcap and pcapng files."""

import datetime as dt
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ktls_agent.sansio.capture.foreign import ForeignRequest, correlate
from ktls_agent.sansio.capture.foreign_netlink import NetlinkRequest, NetlinkTraffic, examine_netlink
from ktls_agent.sansio.capture.foreign_records import ForeignHandshake, Outcome, PresentedCertificate
from ktls_agent.sansio.capture.foreign_tls import examine_stream
from ktls_agent.sansio.capture.framing import CaptureError
from ktls_agent.sansio.capture.keylog import (
    MAX_KEYLOG_BYTES,
    KeyLog,
    merge_keylogs,
    parse_keylog_untrusted,
)
from ktls_agent.sansio.request import InvalidRequest
from ktls_agent.sansio.tls.certificates import printable
from ktls_agent.sansio.tls.psk import shown_identity

if TYPE_CHECKING:
    from ktls_agent.io_trio.captures import Capture

WRONG: Final = 1
NO_INPUT: Final = os.EX_NOINPUT
BAD_INPUT: Final = os.EX_DATAERR
UNAVAILABLE: Final = os.EX_UNAVAILABLE

Write = Callable[[str], None]


class _UnusableError(Exception):
    """A file can't be used: a sentence, and the exit status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def describe_foreign(
    captures: Sequence[Path], keylogs: Sequence[Path], *, write: Write, complain: Write
) -> int:
    """Check what is in captures that others made, and tell it.

    Args:
        captures: pcap and pcapng files of one event: of TCP, of netlink, or both.
        keylogs: Key logs, beside what pcapng files hold.
        write: Takes the lines of the result.
        complain: Takes the line that says why there is none.

    Returns:
        The exit status: 0 if all that could be checked is right, 1 if something is not; 65 for what is no capture, 66 for what
        can't be read, 69 without scapy.
    """
    try:
        read = _read_all(captures)
        log = merge_keylogs(
            [*map(_read_keylog, keylogs), *(parse_keylog_untrusted(one.keylog) for one in read)]
        )
    except _UnusableError as error:
        complain(str(error))
        return error.status
    result = _examine(read, log)
    for line in _lines(captures, read, log, result):
        write(line)
    return WRONG if result.wrong else 0


# Reading


def _read_all(paths: Sequence[Path]) -> "list[Capture]":
    try:
        from ktls_agent.io_trio.captures import read_capture  # noqa: PLC0415 - scapy is an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "scapy":
            raise
        raise _UnusableError(
            "Captures are read with scapy, which is not installed: pip install ktls-agent[capture]",
            UNAVAILABLE,
        ) from None
    return [_read(path, read_capture) for path in paths]


def _read(path: Path, read_capture: "Callable[[Path], Capture]") -> "Capture":
    try:
        return read_capture(path)
    except OSError as error:
        raise _UnusableError(f"{path} can't be read: {error.strerror or error}.", NO_INPUT) from None
    except CaptureError as error:
        raise _UnusableError(f"{path}: {error}", BAD_INPUT) from None


def _read_keylog(path: Path) -> KeyLog:
    try:
        with path.open("rb") as file:
            return parse_keylog_untrusted(file.read(MAX_KEYLOG_BYTES))
    except OSError as error:
        raise _UnusableError(
            f"The key log {path} can't be read: {error.strerror or error}.", NO_INPUT
        ) from None


# Examining


@dataclass(kw_only=True)
class _Result:
    """What the captures hold together."""

    handshakes: list[ForeignHandshake] = field(default_factory=list)
    traffic: list[NetlinkTraffic] = field(default_factory=list)
    requests: tuple[ForeignRequest, ...] = ()

    @property
    def wrong(self) -> bool:
        return any(one.findings for one in self.handshakes) or any(one.findings for one in self.traffic)


def _examine(captures: "Sequence[Capture]", log: KeyLog) -> _Result:
    result = _Result()
    for capture in captures:
        found = (examine_stream(stream, log) for stream in capture.streams)
        result.handshakes += [handshake for handshake in found if handshake is not None]
        if capture.datagrams:
            result.traffic.append(examine_netlink(capture.datagrams))
    requests = [request for traffic in result.traffic for request in traffic.requests]
    result.requests = correlate(requests, result.handshakes)
    return result


# Telling


def _lines(
    paths: Sequence[Path], captures: "Sequence[Capture]", log: KeyLog, result: _Result
) -> Iterator[str]:
    for path, capture in zip(paths, captures, strict=True):
        yield f"{path}: " + ", ".join(
            (
                _count(capture.packets, "packet"),
                _count(len(capture.streams), "TCP connection"),
                _count(len(capture.datagrams), "generic-netlink datagram"),
            )
        )
        yield from (f"  note: {note}" for note in capture.notes)
    if log.unreadable:
        yield f"key log: {_count(log.unreadable, 'line')} that can't be read"
    for traffic in result.traffic:
        yield from _traffic_lines(traffic)
    told: list[ForeignHandshake] = []
    for request in result.requests:
        yield from _request_lines(request)
        if request.handshake is not None:
            yield from _handshake_lines(request.handshake, "  ", known=request.handshake in told)
            told.append(request.handshake)
    for handshake in result.handshakes:
        if handshake not in told:
            yield from _handshake_lines(handshake, "", known=False)
    yield _summary(result)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _summary(result: _Result) -> str:
    found = f"{_count(len(result.handshakes), 'handshake')}, {_count(len(result.requests), 'request')}"
    return f"{found}: " + ("something is wrong" if result.wrong else "nothing that could be checked is wrong")


def _traffic_lines(traffic: NetlinkTraffic) -> Iterator[str]:
    if traffic.family_id is None:
        yield "netlink: no message of the handshake family"
    else:
        how = "guessed from its messages" if traffic.guessed else "as the kernel says"
        yield (
            f"netlink: family {traffic.family_id} ({how}), {_count(traffic.notifications, 'READY')}, "
            f"{_count(len(traffic.requests), 'request')}, {_count(traffic.nothing_pending, 'ACCEPT')} in vain"
        )
    yield from _sentences("  ", (), traffic.unchecked, traffic.findings)


def _sentences(
    indent: str, checked: Sequence[str], unchecked: Sequence[str], findings: Sequence[str]
) -> Iterator[str]:
    yield from (f"{indent}right: {sentence}" for sentence in checked)
    yield from (f"{indent}not checked: {sentence}" for sentence in unchecked)
    yield from (f"{indent}WRONG: {sentence}" for sentence in findings)


def _request_lines(found: ForeignRequest) -> Iterator[str]:
    request = found.netlink
    yield f"request {_asked(request)} of process {request.process}, accepted {_time(request.accepted)}"
    waited = "" if request.ready is None else f"{_ms(request.accepted - request.ready)} after READY"
    yield f"  {_done(request)}" + (f"; ACCEPT {waited}" if waited else "")
    if found.handshake is None:
        yield "  no handshake in the captures fits"
    elif found.fitting > 1:
        yield f"  {found.fitting} handshakes fit by time; this one is the likeliest"


def _asked(request: NetlinkRequest) -> str:
    asked = request.request
    if isinstance(asked, InvalidRequest):
        return f"invalid, descriptor {asked.sockfd}"
    name = f", peer {asked.peername}" if asked.peername else ""
    return f"{type(asked).__name__}, descriptor {asked.sockfd}{name}"


def _done(request: NetlinkRequest) -> str:
    if request.done is None:
        return "DONE is not in the capture"
    status = "without a status" if request.status is None else _errno(request.status)
    peers = f", peer keys {', '.join(map(str, request.remote_auth))}" if request.remote_auth else ""
    answer = f", answered {_errno(request.answer)}" if request.answer else ""
    return f"DONE {status}{peers}{answer} after {_ms(request.done - request.accepted)}"


def _errno(number: int) -> str:
    return str(errno.errorcode.get(number, number))


def _handshake_lines(handshake: ForeignHandshake, indent: str, *, known: bool) -> Iterator[str]:
    where = f"{indent}TLS {handshake.client} -> {handshake.server}"
    if known:  # (a request of the other side had it)
        yield f"{where}, as above"
        return
    yield f"{where}, {_time(handshake.began)}, {_ms(handshake.ended - handshake.began)}"
    inner = indent + "  "
    yield inner + _ending(handshake)
    yield inner + ", ".join(_negotiated(handshake))
    for side, certificate in (
        ("server", handshake.server_certificate),
        ("client", handshake.client_certificate),
    ):
        if certificate is not None:
            yield inner + _certificate(side, certificate)
    yield (
        inner
        + f"records behind it: {handshake.records[0]} of the client, {handshake.records[1]} of the server"
    )
    if handshake.client_keys is not None and handshake.server_keys is not None:
        yield inner + (
            f"kTLS: {handshake.client_keys.cipher.name}, "
            f"client from records {handshake.client_keys.tx.sequence} (TX) and {handshake.client_keys.rx.sequence} (RX), "
            f"server from records {handshake.server_keys.tx.sequence} (TX) and {handshake.server_keys.rx.sequence} (RX)"
        )
    yield from _sentences(inner, handshake.checked, handshake.unchecked, handshake.findings)


def _ending(handshake: ForeignHandshake) -> str:
    if handshake.outcome is Outcome.UNKNOWN:
        return f"outcome {handshake.outcome.value}"
    by = f": the {handshake.alert.sender} sent {handshake.alert.name}" if handshake.alert is not None else ""
    return f"{handshake.outcome.value}{by}"


def _negotiated(handshake: ForeignHandshake) -> Iterator[str]:
    yield handshake.cipher_suite or "no suite"
    yield (handshake.group or "no key exchange") + (", by HelloRetryRequest" if handshake.retried else "")
    yield f"SNI {printable(handshake.server_name)}" if handshake.server_name else "no SNI"
    yield f"ALPN {shown_identity(handshake.alpn)}" if handshake.alpn else "no ALPN"
    if handshake.psk_identities:
        yield f"{_count(len(handshake.psk_identities), 'pre-shared key')} offered"
    if handshake.psk_identity is not None:
        yield f"chosen {shown_identity(handshake.psk_identity)}"
    if handshake.tickets:
        yield _count(handshake.tickets, "ticket")


def _certificate(side: str, certificate: PresentedCertificate) -> str:
    return f"{side}'s certificate: {certificate.subject}, issued by {certificate.issuer}, until {certificate.not_after}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _time(at: float) -> str:
    try:
        return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(sep=" ", timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # a capture's times may be any
        return f"{at:.3f} s"
