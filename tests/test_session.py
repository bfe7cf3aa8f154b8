"""A request from ACCEPT to its descriptor's end, without I/O."""

from collections.abc import Sequence

from ktls_agent.sansio.policy import RequestRefused
from ktls_agent.sansio.request import CertificateKeys
from ktls_agent.sansio.status import Cause, failure
from ktls_agent.sansio.tls.parameters import Identity, PreSharedKey


class NoKeys:
    """Keyrings that hold nothing; a `KeySource`."""

    def load_identity(self, pair: CertificateKeys) -> Identity:
        raise RequestRefused(failure(Cause.KEY_UNREADABLE, f"There is no key {pair.certificate}."))

    def load_psk(self, serial: int) -> PreSharedKey:
        raise RequestRefused(failure(Cause.PSK_UNAVAILABLE, f"There is no key {serial}."))

    def look_up(
        self, identities: Sequence[bytes], *, only: Sequence[int]
    ) -> tuple[tuple[PreSharedKey, ...], tuple[str, ...]]:
        return (), ()

    def add_certificate(self, description: str, der: bytes) -> int | None:
        return None
