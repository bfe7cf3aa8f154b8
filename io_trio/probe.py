"""Speaks to a server for `ktls-agent probe`: connect, STARTTLS where it is RPC, handshake, a moment's listening."""

import contextlib
import datetime as dt
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

import trio

from ktls_agent.sansio.policy import Credentials
from ktls_agent.sansio.probe import (
    MAX_BEHIND,
    Mode,
    Report,
    Target,
    look_behind_untrusted,
    probe_parameters,
    refusal_behind,
    refused_without_key,
)
from ktls_agent.sansio.rpc_tls import (
    MARK_LENGTH,
    RpcTlsError,
    encode_starttls_call,
    offers_tls_untrusted,
    reply_length_untrusted,
)
from ktls_agent.sansio.status import Cause, Failure, failure
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    HandshakeCompleted,
    HandshakeFailed,
    Parameters,
    PreSharedKey,
)

PROBE_SECONDS: Final = 10.0
"""For each of connection, STARTTLS and handshake: as long as a mount waits (net/sunrpc)."""

LISTEN_SECONDS: Final = 0.5
"""How long to listen behind the handshake for tickets and a refusal: a few round trips."""


class _Ended(Exception):  # noqa: N818 - a verdict
    """The probe gets no further."""

    def __init__(self, failed: Failure) -> None:
        super().__init__(failed.reason)
        self.failure = failed


async def probe(
    target: Target,
    credentials: Credentials,
    *,
    now: dt.datetime,
    psk: PreSharedKey | None = None,
    seconds: float = PROBE_SECONDS,
    listen_seconds: float = LISTEN_SECONDS,
) -> Report:
    """Look at a server's TLS.

    Args:
        target: The server.
        credentials: What this machine has.
        now: The time for certificates.
        psk: A pre-shared key to offer.
        seconds: How long each phase may take.
        listen_seconds: How long to listen behind the handshake.
    """
    report = Report(target=target)
    try:
        with _phase(report, "connect", seconds):
            stream = await _connect(target)
        async with stream:
            report.address = target.host
            with contextlib.suppress(OSError):  # It may be gone again.
                report.address = str(stream.socket.getpeername()[0])
            await _Probe(stream, report, seconds, listen_seconds).run(credentials, psk, now)
    except _Ended as ended:
        report.failure = ended.failure
    return report


async def _connect(target: Target) -> trio.SocketStream:
    try:
        return await trio.open_tcp_stream(target.host, target.port)
    except OSError as error:
        said = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        where = f"{target.host}, port {target.port}"
        raise _Ended(failure(Cause.CONNECTION_LOST, f"{where} can't be reached: {said}.")) from None


@contextmanager
def _phase(report: Report, name: str, seconds: float) -> Iterator[None]:
    """Time a phase, and end it when it takes too long."""
    began = trio.current_time()
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        reason = f"The server did not answer within {seconds:g} s ({name})."
        raise _Ended(failure(Cause.TIMED_OUT, reason)) from None
    except trio.BrokenResourceError:
        raise _Ended(failure(Cause.CONNECTION_LOST, f"The connection broke ({name}).")) from None
    finally:
        report.phases[name] = trio.current_time() - began


class _Probe:
    def __init__(
        self, stream: trio.SocketStream, report: Report, seconds: float, listen_seconds: float
    ) -> None:
        self._stream = stream
        self._report = report
        self._seconds = seconds
        self._listen_seconds = listen_seconds

    async def run(self, credentials: Credentials, psk: PreSharedKey | None, now: dt.datetime) -> None:
        report = self._report
        if report.target.mode is Mode.NFS:
            with _phase(report, "starttls", self._seconds):
                await self._start_tls()
        parameters, verifier = probe_parameters(
            report.target, credentials, psk, address=report.address or "", now=now
        )
        without_key = report.target.mode is Mode.NVME and psk is None
        try:
            with _phase(report, "handshake", self._seconds):
                engine, event = await self._shake_hands(parameters)
        finally:
            report.chain = verifier.chain
        if isinstance(event, HandshakeFailed):
            raise _Ended(refused_without_key(event.failure) if without_key else event.failure)
        report.completed = event
        await self._listen(engine)

    async def _start_tls(self) -> None:
        xid = secrets.randbits(32)
        await self._stream.send_all(encode_starttls_call(xid))
        try:
            length = reply_length_untrusted(await self._receive(MARK_LENGTH))
            self._report.starttls = offers_tls_untrusted(await self._receive(length), xid)
        except RpcTlsError as error:
            raise _Ended(failure(Cause.PROTOCOL_VIOLATION, str(error))) from None
        if not self._report.starttls:
            reason = (
                "The server does not offer TLS: it speaks RPC, but did not answer AUTH_TLS with STARTTLS."
            )
            raise _Ended(failure(Cause.PROTOCOL_VIOLATION, reason))

    async def _receive(self, count: int) -> bytes:
        """Receive so many bytes, fewer at the end of file."""
        data = b""
        while len(data) < count and (more := await self._stream.receive_some(count - len(data))):
            data += more
        return data

    async def _shake_hands(
        self, parameters: Parameters
    ) -> tuple[TlsEngine, HandshakeCompleted | HandshakeFailed]:
        engine = TlsEngine(parameters, entropy=os.urandom)
        engine.start()
        while (event := engine.next_event()) is None:
            await self._send(engine.data_to_send())
            engine.receive_data(await self._stream.receive_some(engine.bytes_wanted()))
        await self._send(engine.data_to_send())
        # A client is never asked for keys.
        return engine, cast("HandshakeCompleted | HandshakeFailed", event)

    async def _send(self, data: bytes) -> None:
        # A server that hung up may have said why before: receiving tells.
        with contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_all(data)

    async def _listen(self, engine: TlsEngine) -> None:
        """Hear what comes behind the handshake: a server that refuses us says so only there."""
        data = b""
        # What came before the connection broke is read.
        with trio.move_on_after(self._listen_seconds), contextlib.suppress(trio.BrokenResourceError):
            while len(data) < MAX_BEHIND and (more := await self._stream.receive_some(MAX_BEHIND)):
                data += more
        behind = look_behind_untrusted(data, engine.extract_secrets())
        self._report.tickets = behind.tickets
        refused = refusal_behind(behind)
        if refused is not None:
            raise _Ended(refused)
