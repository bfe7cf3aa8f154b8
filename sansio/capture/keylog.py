"""TLS key logs, as SSLKEYLOGFILE makes them (RFC 9850): lines of label, client random and secret in hexadecimal.

Logs are appended to by many connections and programs, and may be cut off in mid-line.  So lines that are no
secrets are counted and otherwise passed over.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MAX_KEYLOG_BYTES: Final = 8 << 20
"""About ten thousand handshakes; a longer one is cut."""

_RANDOM_LENGTH: Final = 32

CLIENT_HANDSHAKE: Final = "CLIENT_HANDSHAKE_TRAFFIC_SECRET"
SERVER_HANDSHAKE: Final = "SERVER_HANDSHAKE_TRAFFIC_SECRET"
CLIENT_APPLICATION: Final = "CLIENT_TRAFFIC_SECRET_0"
SERVER_APPLICATION: Final = "SERVER_TRAFFIC_SECRET_0"
LABELS: Final = (CLIENT_HANDSHAKE, SERVER_HANDSHAKE, CLIENT_APPLICATION, SERVER_APPLICATION)
"""The secrets that say anything about a handshake's messages; exporter and early secrets are passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLog:
    """The secrets of a key log.

    Attributes:
        secrets: By client random and label.
        unreadable: How many lines are no part of a key log.
    """

    secrets: dict[tuple[bytes, str], bytes] = field(default_factory=dict, repr=False)
    unreadable: int = 0

    def secret(self, client_random: bytes, label: str) -> bytes | None:
        """One secret, or None."""
        return self.secrets.get((client_random, label))


def parse_keylog_untrusted(text: bytes) -> KeyLog:
    """Read a key log of any bytes.  Raises nothing."""
    secrets: dict[tuple[bytes, str], bytes] = {}
    unreadable = 0
    for line in text[:MAX_KEYLOG_BYTES].splitlines():
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        parsed = _parse_line(words)
        if parsed is None:
            unreadable += 1
        elif parsed[1] in LABELS:
            secrets[parsed[0], parsed[1]] = parsed[2]
    return KeyLog(secrets=secrets, unreadable=unreadable)


def _parse_line(words: list[bytes]) -> tuple[bytes, str, bytes] | None:
    try:
        label, client_random, secret = words
        parsed = (
            bytes.fromhex(client_random.decode("ascii")),
            label.decode("ascii"),
            bytes.fromhex(secret.decode("ascii")),
        )
    except ValueError:
        return None
    return parsed if len(parsed[0]) == _RANDOM_LENGTH and parsed[2] else None


def merge_keylogs(logs: Iterable[KeyLog]) -> KeyLog:
    """Put the secrets of several logs together."""
    secrets: dict[tuple[bytes, str], bytes] = {}
    unreadable = 0
    for log in logs:
        secrets |= log.secrets
        unreadable += log.unreadable
    return KeyLog(secrets=secrets, unreadable=unreadable)
