"""tlslite-ng's settings: made and checked once for each configuration, and shared by its handshakes."""

from collections.abc import Iterable
from functools import lru_cache

from tlslite.handshakesettings import HandshakeSettings

from . import checks
from .adapters import CIPHER_NAMES
from .parameters import GROUPS, HYBRID_GROUPS, PreSharedKey


class Settings(HandshakeSettings):
    """What a configuration says, as tlslite-ng has it."""

    def validate(self) -> "Settings":
        """tlslite-ng validates, and copies, at each handshake; these are checked once, when they are made."""
        return self


@lru_cache(maxsize=64)
def settings_for(suites: tuple[str, ...], groups: tuple[str, ...], key_shares: tuple[str, ...]) -> Settings:
    """The settings for these suites, groups and groups of key shares, by their names in `parameters`."""
    settings = Settings()
    settings.versions = [checks.TLS_1_3]
    settings.minVersion = settings.maxVersion = checks.TLS_1_3
    settings.cipherNames = [CIPHER_NAMES[name] for name in suites]
    # (tlslite-ng knows the hybrid groups only where kyber-py is installed: those are left out of its validation)
    settings.eccCurves = [name for name in groups if name not in HYBRID_GROUPS] or list(GROUPS)
    settings.keyShares = [name for name in key_shares if name not in HYBRID_GROUPS]
    settings.dhGroups = []
    settings.record_size_limit = None
    settings.use_heartbeat_extension = False
    settings.usePaddingExtension = False
    settings.useExtendedMasterSecret = False
    settings.useEncryptThenMAC = False
    settings.certificate_compression_send = []
    settings.certificate_compression_receive = []
    settings.ticketKeys = []
    settings.ticket_count = 0
    HandshakeSettings.validate(settings)
    settings.eccCurves = list(groups)
    settings.keyShares = list(key_shares)
    return settings


def settings_with(settings: Settings, keys: Iterable[PreSharedKey], *, allow_psk_ke: bool) -> Settings:
    """Settings of one handshake's own, with its keys."""
    own = Settings.__new__(Settings)
    own.__dict__.update(vars(settings))
    own.pskConfigs = [psk_config(key) for key in keys]
    own.psk_modes = ["psk_dhe_ke", "psk_ke"] if allow_psk_ke else ["psk_dhe_ke"]
    return own


def psk_config(key: PreSharedKey) -> tuple[bytes, bytes, str]:
    """A pre-shared key as tlslite-ng's settings have it."""
    return key.identity, key.secret, key.hash_name
