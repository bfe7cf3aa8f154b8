"""External pre-shared keys (RFC 8446, 2.2 and 4.2.11): binders, and the choice of a key on either side.

`OfferedKeys` is the client's side, `KeyChoice` the server's.  Both look at tlslite-ng's messages through attributes only.
tlslite-ng computes binders in Python, and of its own idea of the ClientHello; it is kept from doing so.
"""

import hmac
from collections.abc import Collection, Sequence
from itertools import compress
from typing import Any, Final

from ..status import Alert, Cause
from .errors import refused, violation
from .extensions import ExtensionType
from .parameters import MAX_PSK_IDENTITIES, PreSharedKey
from .primitives import (
    HASHES,
    SUITES_BY_NAME,
    SUITES_BY_NUMBER,
    Transcript,
    derive_secret,
    hkdf_expand_label,
    hmac_digest,
)

NO_KEY: Final = PreSharedKey(identity=b"\x00", secret=bytes(32), hash_name="sha256")
"""For tlslite-ng's server, which wants to have a key before it has read which ones the client offers."""

_SHOWN_IDENTITIES: Final = 4
_SHOWN_LENGTH: Final = 200  # an NVMe identity has about 150 bytes; four of them fit a line of the log


def compute_binder(key: PreSharedKey, transcript: Transcript, truncated_hello: bytes) -> bytes:
    """The binder of an external key (RFC 8446, 4.2.11.2).

    Args:
        key: The key.
        transcript: The messages before this ClientHello: none, or those of a HelloRetryRequest.
        truncated_hello: The ClientHello up to, and without, the list of binders.
    """
    size = HASHES[key.hash_name].digest_size
    early_secret = hmac_digest(bytes(size), key.secret, key.hash_name)
    binder_key = derive_secret(early_secret, b"ext binder", None, key.hash_name)
    finished_key = hkdf_expand_label(binder_key, b"finished", b"", size, key.hash_name)
    messages = transcript.copy()
    messages.update(truncated_hello)
    return hmac_digest(finished_key, messages.digest(key.hash_name), key.hash_name)


def _binders_length(offer: Any) -> int:
    """The length of the list of binders, at the end of a ClientHello, with its own length field."""
    return 2 + sum(1 + len(binder) for binder in offer.binders)


def shown_identity(identity: bytes) -> str:
    """An identity as text for people: printable, and of bounded length, however much of it has to be escaped."""
    text = identity[:_SHOWN_LENGTH].decode("ascii", "backslashreplace")
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    if len(identity) <= _SHOWN_LENGTH and len(shown) <= _SHOWN_LENGTH:
        return shown
    return f"{shown[:_SHOWN_LENGTH]}… ({len(identity)} bytes)"


def suites_for(names: Sequence[str], keys: Collection[PreSharedKey]) -> tuple[str, ...]:
    """The cipher suites, of those named, that one of the keys can be used with."""
    hashes = {key.hash_name for key in keys}
    return tuple(name for name in names if SUITES_BY_NAME[name].hash_name in hashes)


class OfferedKeys:
    """The keys that a client offers, and its judgement of the server's answer."""

    def __init__(self, keys: Sequence[PreSharedKey], *, allow_psk_ke: bool) -> None:
        self._keys = keys
        self._allow_psk_ke = allow_psk_ke

    def bind(self, hello: Any, transcript: Transcript, hash_name: str | None = None) -> None:
        """Put the binders into a ClientHello that is otherwise complete.

        Args:
            hello: The ClientHello.
            transcript: The messages before it.
            hash_name: The hash of the suite that a HelloRetryRequest chose: keys of another one are not offered
                again (RFC 8446, 4.1.4), since their binders would need another transcript.
        """
        offer = hello.getExtension(ExtensionType.PRE_SHARED_KEY)
        if hash_name is not None:
            fits = [key.hash_name == hash_name for key in self._keys]
            self._keys = tuple(compress(self._keys, fits))
            offer.identities = list(compress(offer.identities, fits))
            offer.binders = list(compress(offer.binders, fits))
        truncated = bytes(hello.write())[: -_binders_length(offer)]
        offer.binders = [bytearray(compute_binder(key, transcript, truncated)) for key in self._keys]

    def judge(self, server_hello: Any) -> PreSharedKey:
        """Return the key that the server chose (RFC 8446, 4.2.11, the client's checks).

        Raises:
            HandshakeError: It chose none, one that was not offered, or one that does not go with its suite.
        """
        extension = server_hello.getExtension(ExtensionType.PRE_SHARED_KEY)
        if extension is None:
            raise refused(
                Cause.NO_COMMON_PARAMETERS, "the server wants to go on without any of our pre-shared keys"
            )
        if extension.selected is None:
            raise violation(Alert.DECODE_ERROR, "the server's pre_shared_key is empty")
        if extension.selected >= len(self._keys):
            raise violation(Alert.ILLEGAL_PARAMETER, "the server chose a pre-shared key that was not offered")
        key: PreSharedKey = self._keys[extension.selected]
        if SUITES_BY_NUMBER[server_hello.cipher_suite].hash_name != key.hash_name:
            raise violation(
                Alert.ILLEGAL_PARAMETER, "the server chose a suite that does not fit the pre-shared key"
            )
        if server_hello.getExtension(ExtensionType.KEY_SHARE) is None and not self._allow_psk_ke:
            raise violation(
                Alert.ILLEGAL_PARAMETER, "the server left out the key exchange, which was not offered"
            )
        return key


class KeyChoice:
    """A server's choice among the keys that a client offers."""

    def __init__(self) -> None:
        self.requested: tuple[bytes, ...] | None = None
        self.provided: tuple[PreSharedKey, ...] | None = None

    def request_untrusted(self, hello: Any) -> None:
        """Note which keys to look up, of an offer whose form `checks` has looked at.

        Raises:
            HandshakeError: There is no offer.
        """
        offer = hello.getExtension(ExtensionType.PRE_SHARED_KEY)
        if offer is None:
            raise refused(Cause.NO_COMMON_PARAMETERS, "the client offers no pre-shared key")
        self.requested = tuple(bytes(item.identity) for item in offer.identities[:MAX_PSK_IDENTITIES])

    def choose(
        self, hello: Any, message: bytes, transcript: Transcript, suites: Sequence[str]
    ) -> PreSharedKey:
        """Choose the first offered key that is known and goes with a common suite, and check its binder.

        Args:
            hello: The ClientHello.
            message: Its bytes as they came.
            transcript: The messages before it.
            suites: The names of our suites.

        Raises:
            HandshakeError: No key is known, none goes with a common suite, or the binder is wrong.
        """
        offer = hello.getExtension(ExtensionType.PRE_SHARED_KEY)
        index, key = self._find(offer, hello.cipher_suites, suites)
        truncated = message[: -_binders_length(offer)]
        expected = compute_binder(key, transcript, truncated)
        if not hmac.compare_digest(expected, bytes(offer.binders[index])):
            raise refused(
                Cause.PSK_MISMATCH,
                f"the client has another key for the identity {shown_identity(key.identity)} (wrong binder)",
            )
        self.provided = (key,)  # a second ClientHello can't change the choice, which tlslite-ng keeps
        return key

    def _find(self, offer: Any, theirs: Collection[int], ours: Sequence[str]) -> tuple[int, PreSharedKey]:
        known = {key.identity: key for key in self.provided or ()}
        found = [
            (index, known[bytes(item.identity)])
            for index, item in enumerate(offer.identities[:MAX_PSK_IDENTITIES])
            if bytes(item.identity) in known
        ]
        if not found:
            raise refused(Cause.UNKNOWN_PSK, _unknown([bytes(item.identity) for item in offer.identities]))
        for index, key in found:
            if any(SUITES_BY_NAME[name].number in theirs for name in suites_for(ours, (key,))):
                return index, key
        raise refused(
            Cause.NO_COMMON_PARAMETERS, "the client offers no cipher suite that fits its pre-shared key"
        )


def _unknown(identities: Sequence[bytes]) -> str:
    shown = ", ".join(shown_identity(identity) for identity in identities[:_SHOWN_IDENTITIES])
    more = len(identities) - _SHOWN_IDENTITIES
    return f"no key is known for what the client offers: {shown}" + (f", and {more} more" if more > 0 else "")
