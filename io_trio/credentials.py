"""The configured files, read and parsed once, and shared by every handshake.

`load_credentials` reads everything or raises: an agent that starts with half of its configuration would refuse
peers for reasons that nobody finds.  Only the system's trust store may be missing, since it was not asked
for by name: requests that need it are then refused one by one, with the reason.

`CredentialStore` keeps the last set that could be loaded; a reload that fails changes nothing.
"""

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ktls_agent.sansio.config import (
    ConfigError,
    Configuration,
    RoleConfiguration,
    parse_tlshd_conf,
)
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.tls.credentials import MAX_FILE_BYTES, CredentialError, load_identity
from ktls_agent.sansio.tls.parameters import Identity
from ktls_agent.sansio.tls.revocation import MAX_LISTS_BYTES, RevocationListError, RevocationLists
from ktls_agent.sansio.tls.truststore import MAX_BUNDLE_BYTES, TrustStore, TrustStoreError

from .files import ConfiguredFile, FileUnreadable, read_file

CONFIGURATION_FILES: Final = (Path("/etc/tlshd.conf"), Path("/etc/tlshd/config"))
"""Where tlshd looks, the legacy place first."""

SYSTEM_TRUST_STORES: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Arch, Gentoo, Alpine
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),  # Fedora, RHEL
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # older RHEL
    Path("/var/lib/ca-certificates/ca-bundle.pem"),  # SUSE
    Path("/etc/ssl/ca-bundle.pem"),  # older SUSE
    Path("/etc/ssl/cert.pem"),  # Alpine, BSD
)

MAX_CONFIGURATION_BYTES: Final = 1 << 20
"""More than the parser takes in characters, however they are encoded."""


class ConfigurationUnusable(Exception):  # noqa: N818 - a verdict
    """The configuration or a file that it names can't be used; the text is a sentence."""


def find_configuration(named: Path | None, usual: tuple[Path, ...] = CONFIGURATION_FILES) -> Path | None:
    """Choose the configuration file: the one that was named, else the first usual one that exists."""
    return named if named is not None else next((path for path in usual if path.exists()), None)


def load_credentials(
    path: Path | None,
    *,
    system_trust_stores: tuple[Path, ...] = SYSTEM_TRUST_STORES,
    now: dt.datetime | None = None,
    allow_readable_keys: bool = False,
) -> Credentials:
    """Read a configuration and every file that it names.

    Args:
        path: The configuration; None means the defaults.
        system_trust_stores: Where to look for trusted authorities if the configuration names none.
        now: For which time revocation lists should be current; None means the time of the call.
        allow_readable_keys: Take private keys that others than the agent's user may read, with a warning.

    Raises:
        ConfigurationUnusable: A file is missing, or something in it is wrong.
    """
    loader = _Loader(
        system_trust_stores, now or dt.datetime.now(dt.UTC), allow_readable_keys=allow_readable_keys
    )
    return loader.load(path)


class CredentialStore:
    """The credentials in use, and how to read them again.

    Attributes:
        current: What new requests get.
    """

    def __init__(self, load: Callable[[], Credentials]) -> None:
        """Load them for the first time.

        Raises:
            ConfigurationUnusable: They can't be used.
        """
        self._load = load
        self.current = load()

    def reload(self) -> None:
        """Read everything again.

        Raises:
            ConfigurationUnusable: It can't be used; `current` stays as it was.
        """
        self.current = self._load()


class _Loader:
    """One load: each file is read once, however often it is named."""

    def __init__(
        self, system_trust_stores: tuple[Path, ...], now: dt.datetime, *, allow_readable_keys: bool
    ) -> None:
        self.system_trust_stores = system_trust_stores
        self.now = now
        self.allow_readable_keys = allow_readable_keys
        self.warnings: list[str] = []
        self.stores: dict[Path, TrustStore] = {}
        self.lists: dict[Path, RevocationLists] = {}

    def load(self, path: Path | None) -> Credentials:
        configuration = self.configuration(path)
        client = self.role(configuration.client, "client")
        server = self.role(configuration.server, "server")
        warnings = tuple(dict.fromkeys(self.warnings))
        return Credentials(configuration=configuration, client=client, server=server, warnings=warnings)

    def configuration(self, path: Path | None) -> Configuration:
        if path is None:
            return Configuration()
        data = self.read(path, "configuration", MAX_CONFIGURATION_BYTES)
        try:
            configuration, warnings = parse_tlshd_conf(data.decode(), source=str(path))
        except UnicodeDecodeError:
            raise ConfigurationUnusable(f"The configuration {path} is not UTF-8 text.") from None
        except ConfigError as error:
            raise ConfigurationUnusable(str(error)) from None
        self.warnings.extend(str(warning) for warning in warnings)
        return configuration

    def role(self, configured: RoleConfiguration, role: str) -> RoleCredentials:
        trust = self.trust(configured.truststore)
        return RoleCredentials(
            trust=trust,
            identity=self.identity(configured, role),
            revocation=self.revocation(configured.revocation_lists, trust),
        )

    def trust(self, configured: str | None) -> TrustStore | None:
        if configured is not None:
            return self.store(Path(configured))
        path = next((path for path in self.system_trust_stores if path.exists()), None)
        try:
            return None if path is None else self.store(path)
        except ConfigurationUnusable as error:
            self.warnings.append(str(error))
            return None

    def store(self, path: Path) -> TrustStore:
        if path not in self.stores:
            try:
                self.stores[path] = TrustStore.from_pem(self.read(path, "trust store", MAX_BUNDLE_BYTES))
            except TrustStoreError as error:
                raise ConfigurationUnusable(f"{path}: {error}") from None
            self.warnings.extend(f"{path}: {sentence}" for sentence in self.stores[path].skipped)
        return self.stores[path]

    def revocation(self, configured: str | None, trust: TrustStore | None) -> RevocationLists | None:
        if configured is None:
            return None
        path = Path(configured)
        try:
            if path not in self.lists:
                data = self.read(path, "file of revocation lists", MAX_LISTS_BYTES)
                self.lists[path] = RevocationLists.from_file(data)
            lists = self.lists[path]
            if trust is not None:
                lists.check_anchors(trust)
        except RevocationListError as error:
            raise ConfigurationUnusable(f"{path}: {error}") from None
        self.warnings.extend(f"{path}: {sentence}" for sentence in lists.oddities(self.now))
        return lists

    def identity(self, configured: RoleConfiguration, role: str) -> Identity | None:
        if configured.certificate is None or configured.private_key is None:
            return None
        certificate, key = Path(configured.certificate), Path(configured.private_key)
        certificate_pem = self.read(certificate, f"{role}'s certificate", MAX_FILE_BYTES)
        try:
            return load_identity(certificate_pem, self.read_key(key, f"{role}'s private key"))
        except CredentialError as error:
            raise ConfigurationUnusable(f"{certificate}, {key}: {error}") from None

    def read(self, path: Path, what: str, limit: int) -> bytes:
        file = self.open(path, what, limit)
        openness = file.openness(os.geteuid())
        if openness is not None:
            self.warnings.append(openness)
        return file.data

    def read_key(self, path: Path, what: str) -> bytes:
        file = self.open(path, what, MAX_FILE_BYTES)
        exposure = file.exposure(os.geteuid())
        if exposure is not None and not self.allow_readable_keys:
            raise ConfigurationUnusable(
                f"{exposure} Make it the agent's own (chown, chmod 0600), and a new key if somebody may have read this one; "
                "or start with --allow-readable-keys."
            )
        if exposure is not None:
            self.warnings.append(exposure)
        return file.data

    @staticmethod
    def open(path: Path, what: str, limit: int) -> ConfiguredFile:
        try:
            return read_file(path, what, limit)
        except FileUnreadable as error:
            raise ConfigurationUnusable(str(error)) from None
