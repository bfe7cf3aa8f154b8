"""A simulated machine: `SimulatedKernel` behind real socket pairs, with consumers on real TCP sockets.

    machine = Machine()
    agent = Agent(services, open_socket=machine.open_socket)    # services: installer=machine, keyring=machine.keyring
    consumer = machine.submit(PendingRequest(...), connected_socket)
    completion = await consumer.wait()
    await consumer.send(b"data")                                # under the keys that the agent installed

As in the kernel: a request is answered while it is being sent; ACCEPT's descriptor is another one of the consumer's
own open file; a consumer cancels by shutting the socket down.  What the kernel alone could do (kTLS) the
consumer does with `KtlsRecords`, from the bytes that the socket would have got.
"""

import contextlib
import errno
import itertools
import os
import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import trio

from ktls_agent.sansio.ktls import TLS_RX, TLS_TX, KernelSecrets, pack_crypto_info
from ktls_agent.sansio.netlink.messages import encode_message
from ktls_agent.sansio.netlink.spec import NlmsgType
from ktls_agent.sansio.testing.records import KtlsRecords, Record
from ktls_agent.sansio.testing.simulated_kernel import Completion, PendingRequest, SimulatedKernel

from ..keyring import KeyUnreadable
from ..ktls import KeysRefused
from ..netlink import MAX_DATAGRAM

RECEIVE_SIZE: Final = 64 << 10
_FIRST_SERIAL: Final = 0x1000


class MemoryKeyring:
    """A keyring in memory; a `Keyring`.

    Attributes:
        keys: Payloads by serial.
        descriptions: Of the certificates and pre-shared keys that were added.
        psks: The serials of the pre-shared keys, and the keyring that each is in; None for one that is always linked.
        faults: The errno with which the kernel refuses a key, by its serial: EKEYEXPIRED, EKEYREVOKED, EACCES.
        linked: How many requests need each keyring that ACCEPT linked.
        unlinked: What was unlinked, in order.
        problem: What `add_certificate` fails with, if anything.
    """

    def __init__(self) -> None:
        self.keys: dict[int, bytes] = {}
        self.descriptions: dict[int, str] = {}
        self.psks: dict[int, int | None] = {}
        self.faults: dict[int, int] = {}
        self.linked: Counter[int] = Counter()
        self.unlinked: list[int] = []
        self.problem: OSError | None = None
        self._serials = itertools.count(_FIRST_SERIAL)

    def add(self, payload: bytes) -> int:
        """Put any key in; return its serial."""
        serial = next(self._serials)
        self.keys[serial] = payload
        return serial

    def add_psk(self, identity: bytes, secret: bytes, *, keyring: int | None = None) -> int:
        """Put a pre-shared key in; return its serial.

        Args:
            identity: Its description.
            secret: Its payload.
            keyring: Which keyring it is in; None for one that is always linked.
        """
        serial = self.add(secret)
        self.psks[serial] = keyring
        self.descriptions[serial] = identity.decode(errors="surrogateescape")
        return serial

    def read(self, serial: int) -> bytes:
        """See `Keyring`."""
        self._check(serial)
        return self.keys[serial]

    def describe(self, serial: int) -> bytes:
        """See `Keyring`."""
        self._check(serial)
        return self.descriptions.get(serial, "").encode(errors="surrogateescape")

    def search_psk(self, description: bytes) -> int | None:
        """See `Keyring`."""
        text = description.decode(errors="surrogateescape")
        for serial, keyring in self.psks.items():
            if self.descriptions[serial] == text and (keyring is None or self.linked[keyring]):
                self._check(serial)
                return serial
        return None

    def _check(self, serial: int) -> None:
        error = self.faults.get(serial, 0 if serial in self.keys else errno.ENOKEY)
        if error:
            raise KeyUnreadable(f"The key {serial}", error)

    def add_certificate(self, description: str, der: bytes) -> int:
        """See `Keyring`."""
        if self.problem is not None:
            raise self.problem
        serial = self.add(der)
        self.descriptions[serial] = description
        return serial

    def hold(self, serial: int) -> None:
        """See `Keyring`."""
        self.linked[serial] += 1

    def release(self, serial: int) -> None:
        """See `Keyring`."""
        self.linked[serial] -= 1
        if not self.linked[serial]:
            self.unlinked.append(serial)


class SimulatedSocket:
    """The agent's end of a socket pair to the simulated kernel; a `DatagramSocket`."""

    def __init__(self, machine: "Machine") -> None:
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self._end, self._kernel_end = socket.socketpair(socket.AF_UNIX, kind)
        self._machine = machine
        self._groups: list[int] = []
        self._held: list[bytes] | None = None
        self.errors: deque[OSError] = deque()

    def send_nowait(self, data: bytes) -> None:
        """See `DatagramSocket`."""
        self._end.send(data)
        answers = self._machine.kernel.receive_datagram(self._kernel_end.recv(MAX_DATAGRAM))
        for answer in answers:
            self.deliver(answer)

    def receive_nowait(self) -> bytes | None:
        """See `DatagramSocket`."""
        if self.errors:
            raise self.errors.popleft()
        try:
            return self._end.recv(MAX_DATAGRAM)
        except BlockingIOError:
            return None

    async def wait_readable(self) -> None:
        """See `DatagramSocket`."""
        await trio.lowlevel.wait_readable(self._end)

    def join_group(self, group: int) -> None:
        """See `DatagramSocket`."""
        self._machine.kernel.join_group(group)
        self._groups.append(group)

    def close(self) -> None:
        """See `DatagramSocket`."""
        for group in self._groups:
            self._machine.kernel.leave_group(group)
        self._machine.sockets.remove(self)
        trio.lowlevel.notify_closing(self._end)
        self._end.close()
        self._kernel_end.close()

    # The kernel's view

    @property
    def listens(self) -> bool:
        """Has it joined a group?"""
        return bool(self._groups)

    def deliver(self, datagram: bytes) -> None:
        """Put a datagram from the kernel into the agent's receive buffer."""
        if self._held is not None:
            self._held.append(datagram)
        else:
            self._kernel_end.send(datagram)

    def overflow(self) -> None:
        """The receive buffer overflowed: the next read fails with ENOBUFS."""
        self.errors.append(OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)))
        self.deliver(encode_message(NlmsgType.NOOP, b""))  # Readable, as the error makes a real one.

    def hold(self) -> None:
        """Keep what is delivered until `release`."""
        self._held = []

    def release(self) -> None:
        """Deliver what was kept."""
        held, self._held = self._held or [], None
        for datagram in held:
            self.deliver(datagram)


class Consumer:
    """A kernel consumer with its request and its socket.

    Attributes:
        request: What it asked for.
        socket: Its connected socket.
        completion: What it was told; None until then.
    """

    def __init__(self, machine: "Machine", request: PendingRequest, sock: trio.socket.SocketType) -> None:
        self.request = request
        self.socket = sock
        self.completion: Completion | None = None
        self._machine = machine
        self._completed = trio.Event()
        self._records: KtlsRecords | None = None
        self._received: deque[Record] = deque()

    def complete(self, completion: Completion) -> None:
        """The kernel's callback (`ta_done`)."""
        self.completion = completion
        self._completed.set()

    async def wait(self) -> Completion:
        """Wait until the handshake is over."""
        await self._completed.wait()
        if self.completion is None:
            raise AssertionError("the event is set with the completion")
        return self.completion

    def hang_up(self) -> None:
        """Give the request up, as sunrpc does: cancel, then shut the socket down."""
        self._machine.kernel.cancel(self.request)
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def records(self) -> KtlsRecords:
        """Return the record layer with the keys that the agent installed."""
        if self._records is None:
            installed = self._machine.crypto_infos[_inode(self.socket.fileno())]
            self._records = KtlsRecords(tx=installed[TLS_TX], rx=installed[TLS_RX])
        return self._records

    async def send(self, data: bytes) -> None:
        """Send data as the kernel would, encrypted."""
        rest = memoryview(self.records().seal(data))
        while rest:
            rest = rest[await self.socket.send(rest) :]

    async def receive(self) -> Record:
        """Receive one record, decrypted.

        Raises:
            RecordError: The peer's bytes don't fit the keys.
            EOFError: The peer closed the connection.
        """
        while not self._received:
            data = await self.socket.recv(RECEIVE_SIZE)
            if not data:
                raise EOFError("the peer closed the connection")
            self._received.extend(self.records().receive_data_untrusted(data))
        return self._received.popleft()


class Machine:
    """See the module's docstring; also a `KeyInstaller`.

    Attributes:
        kernel: The simulated kernel.
        keyring: The machine's keyrings.
        sockets: The agent's netlink sockets that are open.
        crypto_infos: What TLS_TX and TLS_RX got, by the socket's inode.
        refuse_keys: What `install` refuses keys with, if anything.
    """

    def __init__(
        self,
        *,
        pending_limit: int = 50,
        family_present: bool = True,
        posted: Callable[[PendingRequest], None] | None = None,
    ) -> None:
        """Make a machine on which nobody asked for anything.

        Args:
            pending_limit: How many requests may wait for ACCEPT.
            family_present: False for a kernel without the handshake service.
            posted: Told of each request, just before READY goes out.
        """
        self.kernel = SimulatedKernel(
            install=self._install_descriptor,
            pending_limit=pending_limit,
            completed=self._complete,
            family_present=family_present,
        )
        self.keyring = MemoryKeyring()
        self.sockets: list[SimulatedSocket] = []
        self.crypto_infos: dict[int, dict[int, bytes]] = {}
        self.refuse_keys: KeysRefused | None = None
        self.descriptors: dict[int, Consumer] = {}
        self._consumers: dict[PendingRequest, Consumer] = {}
        self._posted = posted

    def open_socket(self) -> SimulatedSocket:
        """Open a netlink socket for the agent."""
        self.sockets.append(SimulatedSocket(self))
        return self.sockets[-1]

    def submit(self, request: PendingRequest, sock: trio.socket.SocketType) -> Consumer:
        """Ask for a handshake on a connected socket.

        Raises:
            OSError: As the consumer would see it; see `SimulatedKernel.post`.
        """
        consumer = self._consumers[request] = Consumer(self, request, sock)
        if self._posted is not None:
            self._posted(request)
        ready = self.kernel.post(request)
        if ready:
            for listener in self.sockets:
                if listener.listens:
                    listener.deliver(ready)
        return consumer

    def install(self, sock: socket.socket, secrets: KernelSecrets) -> None:
        """See `KeyInstaller`."""
        if self.refuse_keys is not None:
            raise self.refuse_keys
        self.crypto_infos[_inode(sock.fileno())] = {
            direction: pack_crypto_info(secrets, direction) for direction in (TLS_TX, TLS_RX)
        }

    def _install_descriptor(self, request: PendingRequest) -> int:
        consumer = self._consumers[request]
        descriptor = os.dup(consumer.socket.fileno())
        self.descriptors[descriptor] = consumer
        return descriptor

    def _complete(self, completion: Completion) -> None:
        self._consumers[completion.request].complete(completion)


def _inode(descriptor: int) -> int:
    """What two descriptors of one socket have in common."""
    return os.fstat(descriptor).st_ino


async def connected_pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """Connect two TCP sockets on loopback: the one that connected, the one that accepted."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        connecting = trio.socket.socket()
        await connecting.connect(listener.getsockname())
        accepted, _ = await listener.accept()
        return connecting, accepted
