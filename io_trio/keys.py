"""The keys of one request, from the kernel's keyrings; a `KeySource`.

All of it happens on the thread that sent ACCEPT, without waiting: what the kernel linked for the request is in that
thread's process keyring.
"""

from collections.abc import Sequence

from ktls_agent.sansio.policy import (
    RequestRefused,
    check_offered_untrusted,
    load_psks,
    make_psk_untrusted,
    psk_unreadable,
    tell_failures,
)
from ktls_agent.sansio.request import CertificateKeys
from ktls_agent.sansio.status import Cause, Failure, failure
from ktls_agent.sansio.tls.credentials import CredentialError, load_identity_der
from ktls_agent.sansio.tls.parameters import MAX_PSK_IDENTITIES, Identity, PreSharedKey

from .keyring import Keyring, KeyUnreadable


class RequestKeys:
    """See the module's docstring, and `KeySource` for the methods.

    Args:
        keyring: The kernel's keyrings.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def load_identity(self, pair: CertificateKeys) -> Identity:
        """Read a certificate and its private key; raises RequestRefused."""
        try:
            return load_identity_der(
                self._keyring.read(pair.certificate), self._keyring.read(pair.private_key)
            )
        except KeyUnreadable as error:
            raise RequestRefused(failure(Cause.KEY_UNREADABLE, str(error))) from None
        except CredentialError as error:
            reason = f"The keys {pair.certificate} and {pair.private_key} can't be used: {error}"
            raise RequestRefused(failure(Cause.KEY_UNREADABLE, reason)) from None

    def load_psk(self, serial: int) -> PreSharedKey:
        """Read a pre-shared key; raises RequestRefused."""
        try:
            description = self._keyring.describe(serial)
            payload = self._keyring.read(serial)
        except KeyUnreadable as error:
            raise psk_unreadable(error.error, str(error)) from None
        return make_psk_untrusted(serial, description, payload)

    def look_up(
        self, identities: Sequence[bytes], *, only: Sequence[int] = ()
    ) -> tuple[tuple[PreSharedKey, ...], tuple[str, ...]]:
        """Find the keys that a client offers, and say what is wrong with those that can't be used."""
        found, unfound = self._search(identities[:MAX_PSK_IDENTITIES]) if not only else (only, [])
        keys, failures = load_psks(found, self.load_psk)
        offered = tuple(key for key in keys if key.identity in identities)
        return offered, tuple(tell_failures([*unfound, *failures]))

    def add_certificate(self, description: str, der: bytes) -> int | None:
        """Make a key of a certificate; None if the kernel has no such keys."""
        try:
            return self._keyring.add_certificate(description, der)
        except OSError:
            return None

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
