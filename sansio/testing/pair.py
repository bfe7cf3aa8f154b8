"""Two handshakes joined by two pipes in memory, on virtual time.

    pair = ConnectionPair(client_parameters, server_parameters, to_client=Link(latency=0.05, chunks=(1,)))
    pair.run()
    pair.client.completed.cipher_suite, pair.client.sent, pair.client.ended_at
    pair.client.send(b"data")                   # under the keys, as the kernel would
    pair.run()
    pair.server.receive()

A `Link` says what the network does to one direction: how long bytes take, how they are cut, where they end and what
somebody else puts between them.  An `Endpoint` is what stands at one end of both pipes.  It does what the agent does
with a socket: it reads no more than `bytes_wanted`, so what follows the handshake stays in the pipe (`Pipe.unread`), and
closes when the handshake has failed.

Nothing here waits: `run` sets the clock forward to the next thing that happens.
"""

import itertools
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..ktls import TLS_RX, TLS_TX, KernelSecrets, pack_crypto_info
from ..status import Failure
from ..tls.engine import TlsEngine
from ..tls.parameters import (
    Entropy,
    HandshakeCompleted,
    HandshakeFailed,
    KeysRequested,
    Parameters,
    PreSharedKey,
)
from ..tls.records import plain_alert
from .entropy import SeededEntropy
from .records import KtlsRecords, Record

MAX_STREAM: Final = 1 << 20
"""What one direction carries in all: a handshake takes less than 100 KiB, a test's data should be short too."""

NO_KEYS: Final[Mapping[bytes, PreSharedKey]] = MappingProxyType({})


class StreamTooLong(Exception):  # noqa: N818 - what is wrong, not that something is
    """More than `MAX_STREAM` bytes were written in one direction."""


@dataclass(slots=True)
class VirtualClock:
    """The time of everything that shares it.

    Attributes:
        now: In seconds; it moves only when somebody moves it.
    """

    now: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the network does to one direction; all offsets count bytes from its start.

    Attributes:
        latency: How long a byte is under way, in seconds.
        chunks: A read gives no more than one chunk; these are their sizes, over and over: (1,) gives single bytes.
            Empty, a read gets all that is there.
        split_at: Offsets that no read reaches across, beside those of `chunks`.
        end_of_file_at: Where the receiver meets the end of file; what was to follow is lost.
        insert: Bytes that somebody else puts in, by the offset in what the sender wrote.
    """

    latency: float = 0.0
    chunks: tuple[int, ...] = ()
    split_at: tuple[int, ...] = ()
    end_of_file_at: int | None = None
    insert: Mapping[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what would never end or never begin.

        Raises:
            ValueError: A latency is negative, or a chunk has no size.
        """
        if self.latency < 0:
            raise ValueError(f"a byte can't arrive {-self.latency} s before it is sent")
        if any(size <= 0 for size in self.chunks):
            raise ValueError(f"a chunk has at least one byte, unlike one of {self.chunks}")


PERFECT_LINK: Final = Link()
"""What is sent is there at once."""


class Pipe:
    """One direction of a connection.

    Attributes:
        link: What the network does to it.
    """

    def __init__(self, clock: VirtualClock, link: Link) -> None:
        self.link: Final = link
        self._clock = clock
        self._written = 0  # What the sender wrote; the rest counts what the receiver gets.
        self._carried = 0
        self._read = 0
        self._unread = bytearray()
        self._arrivals: deque[tuple[float, int]] = (
            deque()
        )  # when, and up to which offset; bounded by MAX_STREAM
        self._arrived = 0
        self._closed_at: float | None = None
        self._chunk_ends = itertools.accumulate(itertools.cycle(link.chunks)) if link.chunks else None
        self._chunk_end = 0
        self._splits = sorted(link.split_at)
        self._carry(link.insert.get(0, b""))

    @property
    def unread(self) -> bytes:
        """All that was written and not read, whether it has arrived or not."""
        return bytes(self._unread)

    def write(self, data: bytes) -> None:
        """Send bytes now; after `close` they are lost.

        Raises:
            StreamTooLong: It is more than a pipe carries.
        """
        for piece in self._with_insertions(data):
            self._carry(piece)

    def close(self) -> None:
        """Let the receiver meet the end of file behind what was written."""
        if self._closed_at is None:
            self._closed_at = self._clock.now + self.link.latency

    def read(self, limit: int = MAX_STREAM) -> bytes | None:
        """Read as a socket does: at most `limit` bytes, b"" at the end of file, None if nothing has arrived."""
        self._let_arrive()
        available = self._arrived - self._read
        if not available:
            # Nothing is under way then: the end of file went last.
            at_end = self._closed_at is not None and self._closed_at <= self._clock.now
            return b"" if at_end else None
        size = min(available, limit, self._next_cut() - self._read)
        data = bytes(self._unread[:size])
        del self._unread[:size]
        self._read += size
        return data

    def next_arrival(self) -> float | None:
        """When something, if only the end of file, arrives that has not yet; None if nothing is under way."""
        self._let_arrive()
        if self._arrivals:
            return self._arrivals[0][0]
        if self._closed_at is not None and self._closed_at > self._clock.now:
            return self._closed_at
        return None

    def _with_insertions(self, data: bytes) -> Iterator[bytes]:
        start, self._written = self._written, self._written + len(data)
        at = start
        for offset in sorted(self.link.insert):
            if start < offset <= self._written:
                yield data[at - start : offset - start]
                yield self.link.insert[offset]
                at = offset
        yield data[at - start :]

    def _carry(self, data: bytes) -> None:
        if self._closed_at is not None:
            return
        end = self.link.end_of_file_at
        kept = data if end is None else data[: end - self._carried]
        if self._carried + len(kept) > MAX_STREAM:
            raise StreamTooLong(f"a pipe carries {MAX_STREAM} bytes at most")
        if kept:
            self._unread += kept
            self._carried += len(kept)
            self._arrivals.append((self._clock.now + self.link.latency, self._carried))
        if self._carried == end:
            self.close()

    def _let_arrive(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self._clock.now:
            self._arrived = self._arrivals.popleft()[1]

    def _next_cut(self) -> int:
        """The offset that the next read may not reach across."""
        while self._chunk_ends is not None and self._chunk_end <= self._read:
            self._chunk_end = next(self._chunk_ends)
        chunk_end = MAX_STREAM if self._chunk_ends is None else self._chunk_end
        later = bisect_right(self._splits, self._read)
        return min([chunk_end, *self._splits[later : later + 1]])


class Endpoint:
    """What stands at one end: an engine once it is started, and the kernel's records after it.

    Attributes:
        incoming: What it reads from.
        outgoing: What it writes to.
        event: How the handshake ended; None until then.
        ended_at: When, in seconds; None until then.
        keys_requested: The identities that its engine asked for.
    """

    def __init__(self, clock: VirtualClock, *, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming: Final = incoming
        self.outgoing: Final = outgoing
        self.event: HandshakeCompleted | HandshakeFailed | None = None
        self.ended_at: float | None = None
        self.keys_requested: tuple[bytes, ...] = ()
        self._clock = clock
        self._engine: TlsEngine | None = None
        self._psks = NO_KEYS
        self._exact = True
        self._sent = bytearray()  # bounded by what the pipe takes
        self._secrets: KernelSecrets | None = None
        self._records: KtlsRecords | None = None

    def start(
        self,
        parameters: Parameters,
        *,
        entropy: Entropy,
        psks: Mapping[bytes, PreSharedKey] = NO_KEYS,
        exact_reads: bool = True,
    ) -> None:
        """Start a handshake.

        Args:
            parameters: What it is to do.
            entropy: Its randomness.
            psks: A server's pre-shared keys: what a client's identity is answered with.
            exact_reads: Whether it reads `bytes_wanted`, or all that is there, as one that replays a capture does.
        """
        self._engine = TlsEngine(parameters, entropy=entropy)
        self._psks = psks
        self._exact = exact_reads
        self._engine.start()

    @property
    def engine(self) -> TlsEngine:
        """The engine.

        Raises:
            AssertionError: No handshake was started.
        """
        if self._engine is None:
            raise AssertionError("no handshake was started at this end")
        return self._engine

    @property
    def sent(self) -> bytes:
        """All bytes of the handshake that were sent."""
        return bytes(self._sent)

    @property
    def completed(self) -> HandshakeCompleted:
        """What the handshake came to.

        Raises:
            AssertionError: It failed, or has not ended.
        """
        match self.event:
            case HandshakeCompleted():
                return self.event
            case _:
                raise AssertionError(f"the handshake did not complete: {self._ending()}")

    @property
    def failure(self) -> Failure:
        """Why the handshake failed.

        Raises:
            AssertionError: It completed, or has not ended.
        """
        match self.event:
            case HandshakeFailed(failure=failed):
                return failed
            case _:
                raise AssertionError(f"the handshake did not fail: {self._ending()}")

    @property
    def secrets(self) -> KernelSecrets:
        """The keys for the kernel; they are taken from the engine once, and the same ever after.

        Raises:
            AssertionError: The handshake did not complete.
        """
        if self._secrets is None:
            _ = self.completed
            self._secrets = self.engine.extract_secrets()
        return self._secrets

    def send(self, data: bytes) -> None:
        """Send application data under the keys, as the kernel would.

        Raises:
            AssertionError: The handshake did not complete.
        """
        self.outgoing.write(self._ktls().seal(data))

    def receive(self) -> list[Record]:
        """Read every record that has arrived, as the kernel would.

        Raises:
            AssertionError: The handshake did not complete.
            RecordError: What has arrived does not fit the keys.
        """
        records: list[Record] = []
        while data := self.incoming.read():
            records += self._ktls().receive_data_untrusted(data)
        return records

    def abort(self, failed: Failure) -> None:
        """Give up for a reason of our own: the other end gets the failure's alert, if it has one, and no more."""
        if self._engine is not None:
            self._engine.abort(failed)
            self._flush(self._engine)
        elif failed.alert is not None:
            self.outgoing.write(plain_alert(failed.alert))
        self.close()

    def close(self) -> None:
        """Close this end: the other one meets the end of file."""
        self.outgoing.close()

    def pump(self) -> bool:
        """Send what is due and read what has arrived, as far as the handshake wants it.

        Returns:
            Whether anything moved.
        """
        if self._engine is None:
            return False
        moved = self._flush(self._engine)
        if self.event is not None:
            return moved
        data = self.incoming.read(self._engine.bytes_wanted() if self._exact else MAX_STREAM)
        if data is None:
            return moved
        self._engine.receive_data(data)
        self._flush(self._engine)
        return True

    def _flush(self, engine: TlsEngine) -> bool:
        self._take_event(engine)
        data = engine.data_to_send()
        self._sent += data
        self.outgoing.write(data)
        if isinstance(self.event, HandshakeFailed):
            self.close()
        return bool(data)

    def _take_event(self, engine: TlsEngine) -> None:
        event = engine.next_event()
        if isinstance(event, KeysRequested):
            self.keys_requested = event.identities
            engine.provide_keys(tuple(self._psks[name] for name in event.identities if name in self._psks))
            event = engine.next_event()
        if isinstance(event, HandshakeCompleted | HandshakeFailed):
            self.event, self.ended_at = event, self._clock.now

    def _ktls(self) -> KtlsRecords:
        if self._records is None:
            tx, rx = (pack_crypto_info(self.secrets, direction) for direction in (TLS_TX, TLS_RX))
            self._records = KtlsRecords(tx=tx, rx=rx)
        return self._records

    def _ending(self) -> str:
        return "it is still under way" if self.event is None else repr(self.event)


class ConnectionPair:
    """A client and a server; see the module's docstring.

    Attributes:
        clock: The time, in seconds; it starts at 0.
        to_server: What the client writes to.
        to_client: What the server writes to.
        client: The client's end.
        server: The server's end.
    """

    def __init__(
        self,
        client: Parameters,
        server: Parameters,
        *,
        to_server: Link = PERFECT_LINK,
        to_client: Link = PERFECT_LINK,
        psks: Mapping[bytes, PreSharedKey] = NO_KEYS,
        seed: bytes = b"",
        exact_reads: bool = True,
    ) -> None:
        """Start both handshakes; nothing moves before `run`.

        Args:
            client: What the client is to do.
            server: What the server is to do.
            to_server: What happens to what the client sends.
            to_client: What happens to what the server sends.
            psks: What the server answers a client's identities with; one that is missing is unknown to it.
            seed: Of both sides' randomness: the same seed gives the same bytes, but for RSA signatures.
            exact_reads: See `Endpoint.start`.
        """
        self.clock = VirtualClock()
        self.to_server = Pipe(self.clock, to_server)
        self.to_client = Pipe(self.clock, to_client)
        self.client = Endpoint(self.clock, incoming=self.to_client, outgoing=self.to_server)
        self.server = Endpoint(self.clock, incoming=self.to_server, outgoing=self.to_client)
        self.client.start(client, entropy=SeededEntropy(b"client" + seed), exact_reads=exact_reads)
        self.server.start(server, entropy=SeededEntropy(b"server" + seed), psks=psks, exact_reads=exact_reads)

    def run(self, until: float = math.inf) -> None:
        """Let time pass until nothing can move, and all that was sent has arrived.

        Args:
            until: When to stop in any case; the clock stands there then.
        """
        while True:
            while self.client.pump() | self.server.pump():
                pass
            upcoming = earliest(self.to_server.next_arrival(), self.to_client.next_arrival())
            if upcoming is None or upcoming > until:
                break
            self.clock.now = upcoming
        if until < math.inf:
            self.clock.now = max(self.clock.now, until)


def earliest(*times: float | None) -> float | None:
    """Return the first of some times, None if there is none."""
    return min((time for time in times if time is not None), default=None)
