"""The kernel's own keyrings, where this machine has them, and what is made of its refusals."""

import ctypes
import errno
import os
import time
from pathlib import Path

import pytest

from ktls_agent.io_trio import keyring as keyring_module
from ktls_agent.io_trio.keyring import (
    KEY_SPEC_PROCESS_KEYRING,
    KEYCTL_LINK,
    KEYCTL_SEARCH,
    KEYCTL_SET_TIMEOUT,
    KEYCTL_UNLINK,
    MAX_KEY_BYTES,
    KernelKeyring,
    KeyringLinks,
    KeyUnreadable,
    find_keyrings,
)
from tests.pki import Authority

KEYCTL_REVOKE = 3
KEYCTL_SETPERM = 5


@pytest.fixture
def keyring() -> KernelKeyring:
    """The kernel's keyrings; a sandbox may forbid them."""
    made = KernelKeyring()
    try:
        add(made, "user", "ktls-agent-probe", b"x")
    except OSError as error:
        pytest.skip(f"no keyrings here: {error}")
    return made


def add(keyring: KernelKeyring, kind: str, description: str, payload: bytes | None) -> int:
    """add_key(2) of any type into the process keyring."""
    return keyring._call(
        keyring._add_key_number,
        ctypes.c_char_p(kind.encode()),
        ctypes.c_char_p(description.encode()),
        ctypes.c_char_p(payload),
        ctypes.c_size_t(len(payload or b"")),
        ctypes.c_int(KEY_SPEC_PROCESS_KEYRING),
    )


@pytest.mark.parametrize("payload", [b"a", b"with \0 in it", bytes(range(256)) * 16])
def test_reads_what_a_key_holds(keyring: KernelKeyring, payload: bytes) -> None:
    assert keyring.read(add(keyring, "user", "ktls-agent-test", payload)) == payload


def test_a_key_that_does_not_exist_is_told(keyring: KernelKeyring) -> None:
    with pytest.raises(KeyUnreadable, match=r"^The key 2147483647 does not exist\.$"):
        keyring.read(2**31 - 1)


def test_a_revoked_key_is_told(keyring: KernelKeyring) -> None:
    serial = add(keyring, "user", "ktls-agent-revoked", b"x")
    keyring._keyctl(KEYCTL_REVOKE, serial)
    with pytest.raises(KeyUnreadable, match=rf"^The key {serial} was revoked\.$"):
        keyring.read(serial)


def test_a_key_without_permission_is_told(keyring: KernelKeyring) -> None:
    serial = add(keyring, "user", "ktls-agent-forbidden", b"x")
    keyring._keyctl(KEYCTL_SETPERM, serial, 0)
    with pytest.raises(KeyUnreadable, match=rf"^The key {serial} may not be read by this agent; link it"):
        keyring.read(serial)


def test_a_key_that_is_too_long_is_told(keyring: KernelKeyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_module, "MAX_KEY_BYTES", 4)
    serial = add(keyring, "user", "ktls-agent-long", b"12345")
    with pytest.raises(KeyUnreadable, match=rf"^The key {serial} has 5 bytes; at most 4 are read\.$"):
        keyring.read(serial)


def test_another_refusal_is_told_in_the_systems_words(
    keyring: KernelKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINTR, "x")

    monkeypatch.setattr(keyring, "_keyctl", refuse)
    with pytest.raises(KeyUnreadable, match=r"^The key 7 can not be read: Interrupted system call\.$"):
        keyring.read(7)


def test_makes_a_key_of_a_certificate(keyring: KernelKeyring) -> None:
    der = Authority("Keyring Test").issue(("peer.test",)).chain[0]
    name = f"TLS x509 peer.test {os.getpid()}"  # (other processes' keys are listed as well)
    try:
        first = keyring.add_certificate(name, der)
    except OSError as error:
        pytest.skip(f"no keys of the type asymmetric here: {error}")
    assert first > 0
    assert name in Path("/proc/keys").read_text()
    keyring.add_certificate(name, der)
    assert Path("/proc/keys").read_text().count(name) <= 2  # the former one goes


def test_what_is_no_certificate_is_refused(keyring: KernelKeyring) -> None:
    with pytest.raises(OSError, match=r"Bad message|No such device"):
        keyring.add_certificate("TLS x509 peer.test", b"no DER")


def members(keyring: KernelKeyring) -> set[int]:
    """What the process keyring holds."""
    return set(keyring._members(KEY_SPEC_PROCESS_KEYRING))


def test_unlinks_a_requests_keyring_after_its_last_user(keyring: KernelKeyring) -> None:
    serial = add(keyring, "keyring", "ktls-agent-port", None)  # links it, as the kernel does at ACCEPT
    keyring.hold(serial)
    keyring.hold(serial)
    keyring.release(serial)
    assert serial in members(keyring)
    keyring.release(serial)
    assert serial not in members(keyring)


def test_links_again_what_another_requests_end_has_unlinked(keyring: KernelKeyring) -> None:
    outer = add(keyring, "keyring", "ktls-agent-outer", None)
    serial = add(keyring, "keyring", "ktls-agent-inner", None)
    keyring._keyctl(KEYCTL_LINK, serial, outer)  # so that it lives on
    keyring._keyctl(KEYCTL_UNLINK, serial, KEY_SPEC_PROCESS_KEYRING)
    keyring.hold(serial)
    assert serial in members(keyring)
    keyring.release(serial)
    assert serial not in members(keyring)


def test_what_was_linked_at_the_start_stays_when_a_request_ends(keyring: KernelKeyring) -> None:
    serial = add(keyring, "keyring", "ktls-agent-configured", None)
    keyring.link(serial)
    keyring.hold(serial)
    keyring.release(serial)
    assert serial in members(keyring)


def test_a_keyring_that_is_gone_needs_no_unlinking(keyring: KernelKeyring) -> None:
    keyring.hold(2**31 - 1)
    keyring.release(2**31 - 1)


def test_another_failure_to_unlink_is_an_error(keyring: KernelKeyring) -> None:
    keyring.hold(-1000)
    with pytest.raises(OSError, match="Invalid argument"):
        keyring.release(-1000)


# Pre-shared keys.  The type "psk" comes with the kernel's NVMe; "user" differs only in how the kernel searches.


@pytest.fixture
def psks(keyring: KernelKeyring) -> KernelKeyring:
    keyring._psk_type = "user"
    return keyring


@pytest.mark.parametrize("description", ["plain", "NVMe0R01 nqn.host nqn.sub", "with;semicolons;in it", "ä"])
def test_describes_a_key(psks: KernelKeyring, description: str) -> None:
    assert psks.describe(add(psks, "user", description, b"x")) == description.encode()


def test_a_key_that_can_not_be_described_is_told(psks: KernelKeyring) -> None:
    with pytest.raises(KeyUnreadable, match=r"^The key 2147483647 does not exist\.$") as caught:
        psks.describe(2**31 - 1)
    assert caught.value.error == errno.ENOKEY


def test_finds_a_key_in_a_linked_keyring(psks: KernelKeyring) -> None:
    inner = add(psks, "keyring", "ktls-agent-nested", None)
    serial = add(psks, "user", "ktls-agent-nested-key", b"x")
    psks._keyctl(KEYCTL_LINK, serial, inner)
    psks._keyctl(KEYCTL_UNLINK, serial, KEY_SPEC_PROCESS_KEYRING)
    assert psks.search_psk(b"ktls-agent-nested-key") == serial
    psks._unlink(inner)
    assert psks.search_psk(b"ktls-agent-nested-key") is None


@pytest.mark.parametrize("identity", [b"", b"ktls-agent-nul\0more", b"ktls" * 1024, b"no such key", b"\xff"])
def test_finds_nothing_for_what_no_key_is_called(psks: KernelKeyring, identity: bytes) -> None:
    add(psks, "user", "ktls-agent-nul", b"x")
    assert psks.search_psk(identity) is None


def test_a_key_that_was_found_revoked_is_told(psks: KernelKeyring) -> None:
    serial = add(psks, "user", "ktls-agent-found", b"x")
    psks._keyctl(KEYCTL_REVOKE, serial)
    with pytest.raises(KeyUnreadable, match=r"^The key ktls-agent-found was revoked\.$") as caught:
        psks.search_psk(b"ktls-agent-found")
    assert caught.value.error == errno.EKEYREVOKED


def read_until_it_fails(keyring: KernelKeyring, serial: int) -> None:
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        keyring.read(serial)
        time.sleep(0.05)


def test_an_expired_key_is_told(psks: KernelKeyring) -> None:
    serial = add(psks, "user", "ktls-agent-expired", b"x")
    psks._keyctl(KEYCTL_SET_TIMEOUT, serial, 1)
    with pytest.raises(KeyUnreadable, match=rf"^The key {serial} has expired\.$") as caught:
        read_until_it_fails(psks, serial)
    assert caught.value.error == errno.EKEYEXPIRED


class PrefixSearch(KernelKeyring):
    """Searches as the kernel does for the type "psk": by the beginning of the description.

    Attributes:
        old: As kernels did before they knew of identities with a digest: what is asked for may be longer.
    """

    old = False

    def _keyctl(self, command: int, *arguments: object) -> int:
        if command == KEYCTL_SEARCH:
            wanted = arguments[2]
            assert isinstance(wanted, ctypes.c_char_p)
            assert wanted.value is not None
            return next(
                serial
                for serial, kind, name in self._walk()
                if kind == "user" and self._fits(name, wanted.value)
            )
        return super()._keyctl(command, *arguments)

    def _fits(self, name: bytes, wanted: bytes) -> bool:
        return wanted.startswith(name) if self.old else name.startswith(wanted)


@pytest.fixture
def prefix_search(keyring: KernelKeyring) -> PrefixSearch:
    del keyring
    made = PrefixSearch()
    made._psk_type = "user"
    return made


def test_a_key_whose_description_only_begins_so_is_another_one(prefix_search: PrefixSearch) -> None:
    add(prefix_search, "user", "ktls-agent-prefix-and-more", b"x")
    assert prefix_search.search_psk(b"ktls-agent-prefix") is None


def test_finds_the_exact_key_behind_one_that_begins_so(prefix_search: PrefixSearch) -> None:
    shadowed = add(prefix_search, "user", "ktls-agent-shadow", b"x")
    inner = add(prefix_search, "keyring", "ktls-agent-shadows", None)
    prefix_search._keyctl(KEYCTL_LINK, shadowed, inner)
    add(prefix_search, "user", "ktls-agent-shadow-too", b"x")
    assert prefix_search.search_psk(b"ktls-agent-shadow") == shadowed


def test_a_key_that_is_the_beginning_of_what_is_wanted_is_another_one(prefix_search: PrefixSearch) -> None:
    prefix_search.old = True
    add(prefix_search, "user", "ktls-agent-old", b"x")
    assert prefix_search.search_psk(b"ktls-agent-older") is None
    serial = add(prefix_search, "user", "ktls-agent-older", b"x")
    assert prefix_search.search_psk(b"ktls-agent-older") == serial


def test_a_key_of_another_type_is_not_taken(prefix_search: PrefixSearch) -> None:
    add(prefix_search, "keyring", "ktls-agent-type", None)
    add(prefix_search, "user", "ktls-agent-type-longer", b"x")
    assert prefix_search._walk_for(b"ktls-agent-type") is None


def test_walks_no_further_than_its_bound(
    prefix_search: PrefixSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        add(prefix_search, "user", f"ktls-agent-many-{number}", b"x")
    monkeypatch.setattr(keyring_module, "MAX_KEYS_WALKED", 3)
    assert 1 <= len(list(prefix_search._walk())) <= 3  # those that were revoked count, but tell nothing


LISTING = f"""\
19f5b045 I------     1 perm 0f0b0000     0     0 keyring   .nfs: empty
24e8adcd I--Q---     1 perm 1f3f0000     0     0 keyring   mine: 3
2c7a34ee I------     1 perm 1f030000     0     0 keyring   mine: 4
3eab5b0b I--Q---     1 perm 1f3f0000 64123 64123 keyring   foreign: 1
0151e963 I--Q---     1 perm 3f010000     0     0 user      .nvme: 3
11111111 I--Q---     1 perm 3f010000 {os.geteuid():5} 0 keyring   own: with colon: empty
short line
"""


def test_finds_keyrings_by_name() -> None:
    names = (".nfs", "mine", "foreign", ".nvme", "own: with colon", "absent")
    assert find_keyrings(names, LISTING) == {
        ".nfs": 0x19F5B045,
        "mine": 0x24E8ADCD,
        "own: with colon": 0x11111111,
    }


class Linker(KernelKeyring):
    """Records links instead of making them."""

    def __init__(self) -> None:
        super().__init__()
        self.linked: list[int] = []

    def link(self, serial: int) -> None:
        if serial == 0x24E8ADCD:
            raise OSError(errno.EACCES, "Permission denied")
        self.linked.append(serial)


def test_links_the_usual_keyrings_and_the_configured_ones(tmp_path: Path) -> None:
    listing = tmp_path / "keys"
    listing.write_text(LISTING)
    linker = Linker()
    assert KeyringLinks(linker, ("mine", "absent"), listing=listing).link() == [
        "The keyring 'mine' could not be linked: Permission denied.",
        "The keyring 'absent' could not be linked: it does not exist, or is not visible to this user.",
    ]
    assert linker.linked == [0x19F5B045]


def test_links_once_what_comes_late_or_anew(tmp_path: Path) -> None:
    listing = tmp_path / "keys"
    linker = Linker()
    links = KeyringLinks(linker, listing=listing)
    line = "{:08x} I------     1 perm 1f0f0000     0     0 keyring   .nvme: empty\n"
    for text, linked in [
        ("", []),
        (line.format(0x10), [0x10]),
        (line.format(0x10), [0x10]),
        (line.format(0x20), [0x10, 0x20]),  # its module was loaded again
    ]:
        listing.write_text(text)
        assert links.link() == []
        assert linker.linked == linked


def test_a_machine_without_keyrings_has_none_to_link(tmp_path: Path) -> None:
    assert KeyringLinks(Linker(), (), listing=tmp_path / "absent").link() == []


@pytest.mark.parametrize(("machine", "numbers"), [("aarch64", (217, 219)), ("x86_64", (248, 250))])
def test_knows_the_system_calls_of_its_architecture(
    machine: str, numbers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    keyring = KernelKeyring()
    assert (keyring._add_key_number, keyring._keyctl_number) == numbers


def test_the_bound_is_larger_than_any_certificate() -> None:
    assert MAX_KEY_BYTES >= 16 << 10
