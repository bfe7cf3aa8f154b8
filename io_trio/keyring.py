"""Keys in the kernel's keyrings: read those that a request names, make those that name a peer.

The system calls have no wrapper in the C library, so they are made by number.  All of them run on the thread
that sends ACCEPT, since what the kernel links for a request goes into the *process* keyring of the thread that
asked.

A pre-shared key is a key of the type "psk" (NVMe's), whose description is its identity.  The kernel compares such
descriptions by their *beginning* (`nvme_tls_psk_match`): whoever offers "NVMe0R01" is given any key that begins so; older
kernels give the key of "nqn.sub" to who asks for "nqn.sub2".  So what a search brings is compared, and where it is
another key, the exact one is looked for key by key.

The keyring of a request is linked by the kernel at ACCEPT, and is ours to unlink.  There is one link however many
requests have the same keyring, so users are counted, and what was linked at the start stays.

A peer's certificate becomes a key of the type "asymmetric" in our process keyring.  A key of the same
description replaces the one before, and each one expires, so a long-lived agent collects no keys.
"""

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from ktls_agent.sansio.tls.psk import shown_identity

KEY_SPEC_PROCESS_KEYRING: Final = -2
# include/uapi/linux/keyctl.h
KEYCTL_DESCRIBE: Final = 6
KEYCTL_LINK: Final = 8
KEYCTL_UNLINK: Final = 9
KEYCTL_SEARCH: Final = 10
KEYCTL_READ: Final = 11
KEYCTL_SET_TIMEOUT: Final = 15

MAX_KEY_BYTES: Final = 64 << 10
"""A certificate or private key has a few kilobytes; 64 KiB is the kernel's own order of magnitude for payloads."""

MAX_DESCRIPTION_BYTES: Final = 4096
"""KEY_MAX_DESC_SIZE, security/keys/keyctl.c, with the terminator."""

_MAX_DESCRIBED: Final = MAX_DESCRIPTION_BYTES + 256  # with type, owners and permissions before it

MAX_KEYS_WALKED: Final = 256
"""How many keys are looked at where a search brought another one; storage hosts have tens.  A peer can ask for a walk
with each identity that it offers, and nobody else is served meanwhile."""

PSK_TYPE: Final = "psk"
_KEYRING_TYPE: Final = "keyring"

PEER_KEY_SECONDS: Final = 3600
"""A peer's key only has to outlive the answer to DONE; an hour lets a person look at it in /proc/keys."""

ALWAYS_LINKED: Final = (".nvme", ".nfs", ".nfsd")
"""The keyrings that the kernel's consumers make; tlshd links them as well."""

PROC_KEYS: Final = Path("/proc/keys")

_ADD_KEY_AND_KEYCTL: Final = {  # each architecture's table of system calls
    "x86_64": (248, 250),
    "i386": (286, 288),
    "i686": (286, 288),
    "armv7l": (309, 311),
    "ppc64": (269, 271),
    "ppc64le": (269, 271),
    "s390x": (278, 280),
}
_GENERIC: Final = (217, 219)  # include/uapi/asm-generic/unistd.h: aarch64, riscv64, loongarch64

_SENTENCES: Final = {
    errno.ENOKEY: "does not exist",
    errno.EKEYEXPIRED: "has expired",
    errno.EKEYREVOKED: "was revoked",
    errno.EACCES: "may not be read by this agent; link it into the keyring .nfs or .nvme, or let its owner's group read it",
    errno.EPERM: "may not be read by this agent",
    errno.EOPNOTSUPP: "is of a type that can't be read; it has to be of the type user or psk",
    errno.ENOSYS: "can't be read: the kernel has no keyrings (CONFIG_KEYS)",
}


class KeyUnreadable(Exception):  # noqa: N818 - a fact about a key
    """A key can't be read; the text is a sentence.

    Attributes:
        error: The kernel's errno.
    """

    def __init__(self, subject: str, error: int, said: str | None = None) -> None:
        said = said or _SENTENCES.get(error, f"can not be read: {os.strerror(error)}")
        super().__init__(f"{subject} {said}.")
        self.error = error


class Keyring(Protocol):
    """The kernel's keyrings, as far as a handshake needs them."""

    def read(self, serial: int) -> bytes:
        """Return a key's payload.

        Raises:
            KeyUnreadable: It can't be read.
        """
        ...

    def describe(self, serial: int) -> bytes:
        """Return a key's description.

        Raises:
            KeyUnreadable: It can't be looked at.
        """
        ...

    def search_psk(self, description: bytes) -> int | None:
        """Look for a pre-shared key of exactly this description in all linked keyrings.

        Returns:
            Its serial; None if there is none.

        Raises:
            KeyUnreadable: There is one, but it has expired, was revoked or may not be used.
        """
        ...

    def add_certificate(self, description: str, der: bytes) -> int:
        """Make a key of a certificate; return its serial.

        Raises:
            OSError: The kernel made none.
        """
        ...

    def hold(self, serial: int) -> None:
        """A request needs this keyring, which the kernel has linked for it."""
        ...

    def release(self, serial: int) -> None:
        """A request does not need its keyring any more: unlink it if nobody else does.

        Raises:
            OSError: It could not be unlinked.
        """
        ...


class KernelKeyring:
    """The kernel's own; a `Keyring`."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._add_key_number, self._keyctl_number = _ADD_KEY_AND_KEYCTL.get(platform.machine(), _GENERIC)
        self._users: Counter[int] = Counter()
        self._psk_type = PSK_TYPE

    def read(self, serial: int) -> bytes:
        """See `Keyring`."""
        return self._get(KEYCTL_READ, serial, MAX_KEY_BYTES)

    def describe(self, serial: int) -> bytes:
        """See `Keyring`."""
        return self._describe(serial)[1]

    def _describe(self, serial: int) -> tuple[str, bytes]:
        """Return a key's type and description."""
        # "type;uid;gid;permissions;description" and a NUL; a description may hold semicolons of its own.
        kind, _, _, _, description = self._get(KEYCTL_DESCRIBE, serial, _MAX_DESCRIBED).split(b";", 4)
        return kind.decode(errors="replace"), description.removesuffix(b"\0")

    def _get(self, command: int, serial: int, size: int) -> bytes:
        """Have the kernel fill a buffer, which is wiped."""
        buffer = ctypes.create_string_buffer(size)
        try:
            length = self._keyctl(command, serial, ctypes.byref(buffer), size)
            if length > size:
                raise KeyUnreadable(
                    f"The key {serial}", errno.EMSGSIZE, f"has {length} bytes; at most {size} are read"
                )
            return buffer.raw[:length]
        except OSError as error:
            raise KeyUnreadable(f"The key {serial}", error.errno or 0) from None
        finally:
            ctypes.memset(buffer, 0, size)

    def search_psk(self, description: bytes) -> int | None:
        """See `Keyring`."""
        if not description or b"\0" in description or len(description) >= MAX_DESCRIPTION_BYTES:
            return None  # No key has such a description, and a NUL would end it early.
        try:
            serial = self._keyctl(
                KEYCTL_SEARCH,
                KEY_SPEC_PROCESS_KEYRING,
                ctypes.c_char_p(self._psk_type.encode()),
                ctypes.c_char_p(description),
                0,
            )
        except OSError as error:
            if error.errno == errno.ENOKEY:
                return None
            raise KeyUnreadable(f"The key {shown_identity(description)}", error.errno or 0) from None
        if self.describe(serial) == description:
            return serial
        return self._walk_for(description)

    def _walk_for(self, description: bytes) -> int | None:
        """Look for a key by its whole description: the kernel found one that only begins with it."""
        wanted = (self._psk_type, description)
        return next((serial for serial, *found in self._walk() if tuple(found) == wanted), None)

    def _walk(self) -> Iterator[tuple[int, str, bytes]]:
        """Serial, type and description of what is linked, in keyrings of keyrings too."""
        waiting = list(self._members(KEY_SPEC_PROCESS_KEYRING))
        seen: set[int] = set()
        while waiting and len(seen) < MAX_KEYS_WALKED:
            serial = waiting.pop()
            if serial in seen:
                continue
            seen.add(serial)
            with contextlib.suppress(KeyUnreadable):
                kind, description = self._describe(serial)
                yield serial, kind, description
                if kind == _KEYRING_TYPE:
                    waiting.extend(self._members(serial))

    def _members(self, serial: int) -> tuple[int, ...]:
        """The serials that a keyring holds.

        Raises:
            KeyUnreadable: It can't be read.
        """
        data = self.read(serial)
        return struct.unpack(f"={len(data) // 4}i", data)

    def add_certificate(self, description: str, der: bytes) -> int:
        """See `Keyring`."""
        serial = self._call(
            self._add_key_number,
            ctypes.c_char_p(b"asymmetric"),
            ctypes.c_char_p(description.encode()),
            ctypes.c_char_p(der),
            ctypes.c_size_t(len(der)),
            ctypes.c_int(KEY_SPEC_PROCESS_KEYRING),
        )
        self._keyctl(KEYCTL_SET_TIMEOUT, serial, PEER_KEY_SECONDS)
        return serial

    def link(self, serial: int) -> None:
        """Link a keyring into the process keyring for good, so that this process may read what it holds.

        Raises:
            OSError: The kernel refused.
        """
        self._keyctl(KEYCTL_LINK, serial, KEY_SPEC_PROCESS_KEYRING)
        self._users[serial] += 1

    def hold(self, serial: int) -> None:
        """See `Keyring`."""
        self._users[serial] += 1
        # The kernel has linked it at ACCEPT; but a request that ended since then may have unlinked it.
        with contextlib.suppress(OSError):
            self._keyctl(KEYCTL_LINK, serial, KEY_SPEC_PROCESS_KEYRING)

    def release(self, serial: int) -> None:
        """See `Keyring`."""
        self._users[serial] -= 1
        if self._users[serial] <= 0:
            del self._users[serial]
            self._unlink(serial)

    def _unlink(self, serial: int) -> None:
        try:
            self._keyctl(KEYCTL_UNLINK, serial, KEY_SPEC_PROCESS_KEYRING)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOKEY, errno.EKEYREVOKED, errno.EKEYEXPIRED):
                raise

    def _keyctl(self, command: int, *arguments: object) -> int:
        numbers = (
            ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments
        )
        return self._call(self._keyctl_number, ctypes.c_int(command), *numbers)

    def _call(self, number: int, *arguments: object) -> int:
        result = int(self._libc.syscall(ctypes.c_long(number), *arguments))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result


def find_keyrings(names: Sequence[str], listing: str) -> dict[str, int]:
    """Find keyrings by their names; those of other users than root and ourselves are not taken.

    Args:
        names: What to look for.
        listing: The text of /proc/keys: serial (hexadecimal), flags, usage, expiry, permissions, uid, gid, type and
            description, to which a keyring's count of keys or ": empty" is appended.

    Returns:
        The serials of those that there are.
    """
    owners = ("0", str(os.geteuid()))
    found: dict[str, int] = {}
    for line in listing.splitlines():
        fields = line.split(maxsplit=8)
        if len(fields) == 9 and fields[7] == "keyring" and fields[5] in owners:
            name = fields[8].rpartition(":")[0]
            if name in names:
                found.setdefault(name, int(fields[0], 16))
    return found


class KeyringLinks:
    """Links the configured keyrings, and those that are always tried, into the process keyring.

    Some come late: `.nvme` is there when its kernel module is.  So `link` is called again when a key is wanted.
    """

    def __init__(
        self, keyring: KernelKeyring, names: Sequence[str] = (), *, listing: Path = PROC_KEYS
    ) -> None:
        """Link nothing yet.

        Args:
            keyring: The kernel's keyrings.
            names: The configured keyrings.
            listing: The kernel's list of keys.
        """
        self._keyring = keyring
        self._names = tuple(names)
        self._listing = listing
        self._linked: dict[str, int] = {}

    def link(self) -> list[str]:
        """Link those that are there and not linked yet.

        Returns:
            A sentence for each configured one that could not be linked.
        """
        wanted = tuple(dict.fromkeys((*ALWAYS_LINKED, *self._names)))
        try:
            found = find_keyrings(wanted, self._listing.read_text(errors="replace"))
        except OSError:
            found = {}  # A kernel without keyrings has no list of them.
        problems = {name: self._link(name, found.get(name)) for name in wanted}
        return [
            f"The keyring {name!a} could not be linked: {problem}."
            for name, problem in problems.items()
            if problem is not None and name in self._names
        ]

    def _link(self, name: str, serial: int | None) -> str | None:
        """Link a keyring; return what prevented it."""
        if serial is None:
            return "it does not exist, or is not visible to this user"
        if self._linked.get(name) == serial:
            return None
        try:
            self._keyring.link(serial)
        except OSError as error:
            return str(error.strerror)
        self._linked[name] = serial
        return None
