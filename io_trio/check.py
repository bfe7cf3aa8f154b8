"""Finds out about this machine for `ktls-agent check`; `sansio.findings` judges what is found.

Nothing is changed: the multicast group is not joined, no request is accepted, and keys go into connections of
our own on loopback, which are closed at once.
"""

import datetime as dt
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from ktls_agent.sansio.findings import (
    CAP_NET_ADMIN,
    Finding,
    Listener,
    MachineFacts,
    configuration_found,
    group_of,
    has_capability,
    is_initial_namespace,
    judge_credentials,
    judge_machine,
    mode_finding,
    sockets_in_group,
    trial_secrets,
    unusable,
)
from ktls_agent.sansio.ktls import LAYOUTS, KtlsCipher
from ktls_agent.sansio.netlink.events import FamilyResolved, KernelError
from ktls_agent.sansio.policy import Credentials

from .credentials import ConfigurationUnusable, find_configuration, load_credentials
from .handler import wall_clock
from .keyring import ALWAYS_LINKED, find_keyrings
from .ktls import KernelKeyInstaller, KeyInstaller, KeysRefused
from .netlink import DatagramSocket, HandshakeNetlink, KernelSocket

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the check looks at.

    Attributes:
        open_socket: Opens a netlink socket.
        installer: Takes keys for a connection.
        proc: Where the kernel tells about processes.
        now: The time for certificates.
        load: Reads a configuration and its files.
    """

    open_socket: Callable[[], DatagramSocket] = KernelSocket
    installer: KeyInstaller = field(default_factory=KernelKeyInstaller)
    proc: Path = PROC
    now: Callable[[], dt.datetime] = wall_clock
    load: Callable[[Path | None], Credentials] = load_credentials


def check_machine(
    configuration_file: Path | None = None, surroundings: Surroundings | None = None
) -> list[Finding]:
    """Look at this machine and at the configuration.

    Args:
        configuration_file: Instead of tlshd's usual places.
        surroundings: What to look at; the real machine by default.
    """
    checked = Surroundings() if surroundings is None else surroundings
    path = find_configuration(configuration_file)
    try:
        credentials = checked.load(path)
    except ConfigurationUnusable as error:
        return [*judge_machine(_facts(checked, ())), unusable(str(error))]
    keyrings = credentials.configuration.keyrings
    return [
        *judge_machine(_facts(checked, keyrings), keyrings),
        configuration_found(None if path is None else str(path)),
        *_modes(path, credentials),
        *judge_credentials(credentials, checked.now()),
    ]


def _facts(checked: Surroundings, keyrings: Sequence[str]) -> MachineFacts:
    family = trio.run(_resolve, checked.open_socket)
    return MachineFacts(
        release=os.uname().release,
        family=family,
        listeners=_listeners(checked.proc, group_of(family)),
        net_admin=has_capability(_text(checked.proc / "self/status"), CAP_NET_ADMIN),
        initial_namespace=is_initial_namespace(_text(checked.proc / "self/uid_map")),
        refusals={cipher: _refusal(checked.installer, cipher) for cipher in LAYOUTS},
        keyrings=_keyrings(checked.proc / "keys", keyrings),
    )


async def _resolve(open_socket: Callable[[], DatagramSocket]) -> FamilyResolved | KernelError:
    try:
        asker = open_socket()
    except OSError as error:
        return KernelError(sequence=0, command="socket", error=error.errno or 0, text="")
    try:
        netlink = HandshakeNetlink(
            asker=asker, listener=asker, accepted=lambda *_: None, complain=lambda _: None
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(netlink.read_answers)
            family = await netlink.resolve()
            nursery.cancel_scope.cancel()
        return family
    finally:
        asker.close()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _listeners(proc: Path, group: int | None) -> tuple[Listener, ...] | None:
    if group is None:
        return None
    inodes = sockets_in_group(_text(proc / "net/netlink"), group)
    if inodes is None:
        return None
    processes = _owners(proc, {f"socket:[{inode}]": inode for inode in inodes}) if inodes else {}
    return tuple(Listener(inode=inode, process=processes.get(inode, "")) for inode in inodes)


def _owners(proc: Path, wanted: dict[str, str]) -> dict[str, str]:
    """Find the processes that have sockets open; those of other users are not to be seen."""
    found = {}
    for descriptor in proc.glob("[0-9]*/fd/*"):
        try:
            inode = wanted.get(str(descriptor.readlink()))
        except OSError:
            continue
        if inode is not None:
            process = descriptor.parent.parent
            found[inode] = f"{_text(process / 'comm').strip()} ({process.name})"
    return found


def _refusal(installer: KeyInstaller, cipher: KtlsCipher) -> str | None:
    """Why the kernel does not take a cipher's keys; None if it does."""
    try:
        with _loopback() as sock:
            installer.install(sock, trial_secrets(cipher))
    except KeysRefused as error:
        return str(error)
    except OSError as error:
        return f"No connection on loopback to try kernel TLS with: {error.strerror}."
    return None


@contextmanager
def _loopback() -> Iterator[socket.socket]:
    """A connected TCP socket, whose other end is open."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
        server.accept()[0],
    ):
        yield sock


def _keyrings(listing: Path, configured: Sequence[str]) -> frozenset[str] | None:
    try:
        text = listing.read_text(errors="replace")
    except OSError:
        return None
    return frozenset(find_keyrings((*ALWAYS_LINKED, *configured), text))


def _modes(path: Path | None, credentials: Credentials) -> Iterator[Finding]:
    configuration = credentials.configuration
    named = (
        getattr(role, name)
        for role in (configuration.client, configuration.server)
        for name in ("truststore", "certificate", "private_key")
    )
    for file in dict.fromkeys(str(file) for file in (path, *named) if file is not None):
        try:
            mode = stat.S_IMODE(Path(file).stat().st_mode)
        except OSError:
            continue  # It went away since it was read.
        found = mode_finding(file, mode)
        if found is not None:
            yield found
