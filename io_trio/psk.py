"""The pre-shared keys of one request: read from the keyrings, looked up for a client, named in DONE.

All of it happens on the thread that sent ACCEPT, without waiting: what the kernel linked for the request is in that
thread's process keyring.
"""

from collections.abc import Sequence

from ktls_agent.sansio.policy import (
    Note,
    RequestRefused,
    check_offered_untrusted,
    load_psks,
    make_psk_untrusted,
    psk_unreadable,
    tell_failures,
)
from ktls_agent.sansio.status import Failure
from ktls_agent.sansio.tls.parameters import MAX_PSK_IDENTITIES, PreSharedKey

from .keyring import Keyring, KeyUnreadable


class PskSource:
    """See the module's docstring.

    Args:
        keyring: The kernel's keyrings.
        note: Is told which keys were passed over.
    """

    def __init__(self, keyring: Keyring, *, note: Note) -> None:
        self._keyring = keyring
        self._note = note
        self._serials: dict[bytes, int] = {}

    def load(self, serial: int) -> PreSharedKey:
        """Read a key.

        Raises:
            RequestRefused: It can't be read or used.
        """
        try:
            description = self._keyring.describe(serial)
            payload = self._keyring.read(serial)
        except KeyUnreadable as error:
            raise psk_unreadable(error.error, str(error)) from None
        key = make_psk_untrusted(serial, description, payload)
        self._serials.setdefault(key.identity, serial)
        return key

    def look_up(self, identities: Sequence[bytes], *, only: Sequence[int] = ()) -> tuple[PreSharedKey, ...]:
        """Find the keys that a client offers; what can't be used is passed over, with a note.

        Args:
            identities: What the client offers; any bytes.
            only: The serials of the only keys to accept; empty means any that the keyrings hold.
        """
        found, unfound = self._search(identities[:MAX_PSK_IDENTITIES]) if not only else (only, [])
        keys, failures = load_psks(found, self.load)
        for sentence in tell_failures([*unfound, *failures]):
            self._note(sentence)
        return tuple(key for key in keys if key.identity in identities)

    def _search(self, identities: Sequence[bytes]) -> tuple[list[int], list[Failure]]:
        """Search for each identity: the serials that there are, and what can't be used."""
        serials: list[int] = []
        failures: list[Failure] = []
        for identity in identities:
            try:
                check_offered_untrusted(identity)
                serial = self._keyring.search_psk(identity)
            except KeyUnreadable as error:
                failures.append(psk_unreadable(error.error, str(error)).failure)
            except RequestRefused as refused:
                failures.append(refused.failure)
            else:
                serials.extend(() if serial is None else (serial,))
        return serials, failures

    def serial_of(self, identity: bytes) -> int:
        """Return the serial of a key that `load` has read."""
        return self._serials[identity]
