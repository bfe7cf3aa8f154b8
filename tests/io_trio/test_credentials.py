"""The configured files: what is read, what is refused, and what a reload leaves alone."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from ktls_agent.io_trio.credentials import (
    ConfigurationUnusable,
    CredentialStore,
    find_configuration,
    load_credentials,
)
from ktls_agent.io_trio.files import ConfiguredFile
from ktls_agent.sansio.tls.revocation import RevocationLists
from tests.io_trio.house import authority, client_certificate, server_certificate
from tests.pki import DAY, NOW, Authority
from tests.tls.revocations import crl, pem


@dataclass
class Etc:
    """A directory with certificates, and the configurations that are made in it."""

    path: Path

    def file(self, name: str, data: bytes | str, mode: int = 0o600) -> Path:
        path = self.path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        path.chmod(mode)
        return path

    def configure(self, text: str) -> Path:
        return self.file("tlshd.conf", text.replace("@", str(self.path)))


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    made = Etc(tmp_path)
    made.file("ca.pem", authority().pem(), 0o644)
    made.file("forged.pem", pem(crl(authority(), signer=Authority("Forger"))), 0o644)
    for name, issued in (("server", server_certificate()), ("client", client_certificate())):
        made.file(f"{name}.pem", issued.certificate_pem(), 0o644)
        made.file(f"{name}.key", issued.private_key_pem())
    return made


FULL = """\
[debug]
loglevel=1
[authenticate.client]
x509.truststore=@/ca.pem
x509.certificate=@/client.pem
x509.private_key=@/client.key
[authenticate.server]
x509.truststore=@/ca.pem
x509.certificate=@/server.pem
x509.private_key=@/server.key
"""


def test_loads_everything_that_is_named(etc: Etc) -> None:
    credentials = load_credentials(etc.configure(FULL))
    assert credentials.configuration.debug.loglevel == 1
    assert credentials.client.identity is not None
    assert credentials.client.identity.chain == client_certificate().chain
    assert credentials.server.identity is not None
    assert credentials.server.identity.names == ("server.test",)
    assert credentials.client.trust is credentials.server.trust  # one file is read once
    assert credentials.warnings == ()


def test_revocation_lists_are_read_once_and_again_at_a_reload(etc: Etc) -> None:
    etc.file("crl.pem", pem(crl(authority())))
    text = FULL.replace("x509.truststore=@/ca.pem", "x509.truststore=@/ca.pem\nx509.crl=@/crl.pem")
    path = etc.configure(text)
    store = CredentialStore(lambda: load_credentials(path, now=NOW))
    before = store.current
    assert before.warnings == ()
    assert isinstance(before.client.revocation, RevocationLists)
    assert before.client.revocation is before.server.revocation
    etc.file("crl.pem", pem(crl(authority(), 5, next_update=NOW - DAY / 2)))
    store.reload()
    assert isinstance(store.current.client.revocation, RevocationLists)
    assert list(store.current.client.revocation.lists[0].revoked) == [5]
    (warning,) = store.current.warnings
    assert warning.startswith(f"{etc.path}/crl.pem: The revocation list of CN=Test Root is out of date: ")


def test_revocation_lists_without_a_trust_store_are_read(etc: Etc) -> None:
    etc.file("crl.pem", pem(crl(authority())))
    path = etc.configure("[authenticate.client]\nx509.crl=@/crl.pem\n")
    assert load_credentials(path, system_trust_stores=(), now=NOW).client.revocation is not None


def test_without_configuration_there_is_the_systems_trust_alone(etc: Etc) -> None:
    credentials = load_credentials(None, system_trust_stores=(etc.path / "absent", etc.path / "ca.pem"))
    assert credentials.client.trust is not None
    assert authority().certificate in credentials.client.trust
    assert credentials.client.identity is None


def test_a_system_without_trust_store_has_none() -> None:
    assert load_credentials(None, system_trust_stores=()).client.trust is None


def test_a_broken_trust_store_of_the_systems_is_only_a_warning(etc: Etc) -> None:
    store = etc.file("broken.pem", "nothing")
    credentials = load_credentials(None, system_trust_stores=(store,))
    assert credentials.client.trust is None
    assert credentials.warnings == (
        f"{store}: The trust store holds no PEM certificate; it has to hold those of the authorities to trust.",
    )


def test_entries_that_were_left_out_are_told_once(etc: Etc) -> None:
    etc.file("ca.pem", authority().pem() + b"-----BEGIN X-----\nAAAA\n-----END X-----\n")
    credentials = load_credentials(etc.configure(FULL))
    assert len(credentials.warnings) == 1
    assert "is not a CERTIFICATE" in credentials.warnings[0]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_read_is_an_error_unless_it_is_allowed(etc: Etc, mode: int) -> None:
    (etc.path / "server.key").chmod(mode)
    path = etc.configure(FULL)
    said = f"The server's private key {etc.path}/server.key has mode {mode:04o}: other users may read or change it."
    with pytest.raises(ConfigurationUnusable) as caught:
        load_credentials(path)
    assert str(caught.value).startswith(f"{said} Make it the agent's own (chown, chmod 0600), and a new key")
    assert "--allow-readable-keys" in str(caught.value)
    assert load_credentials(path, allow_readable_keys=True).warnings == (said,)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_of_the_agents_own_is_taken(etc: Etc, mode: int) -> None:
    (etc.path / "server.key").chmod(mode)
    assert load_credentials(etc.configure(FULL)).warnings == ()


@pytest.mark.parametrize(
    ("owner", "own", "fine"), [(0, 0, True), (0, 7, True), (7, 7, True), (8, 7, False), (7, 0, False)]
)
def test_a_file_belongs_to_root_or_to_the_agents_user(owner: int, own: int, fine: bool) -> None:
    file = ConfiguredFile(path=Path("/etc/x"), what="trust store", data=b"", mode=0o600, owner=owner)
    assert (file.exposure(own) is None) is fine
    assert (file.openness(own) is None) is fine
    if not fine:
        belongs = f"The trust store /etc/x belongs to the user {owner}, who may "
        assert file.exposure(own) == belongs + "read and change it."
        assert file.openness(own) == belongs + "change it."


@pytest.mark.parametrize(
    ("name", "what"),
    [("ca.pem", "trust store"), ("server.pem", "server's certificate"), ("tlshd.conf", "configuration")],
)
def test_a_file_that_others_may_change_is_told(etc: Etc, name: str, what: str) -> None:
    path = etc.configure(FULL)
    (etc.path / name).chmod(0o664)
    assert load_credentials(path).warnings == (
        f"The {what} {etc.path}/{name} has mode 0664: other users may change it; use chmod go-w.",
    )


def test_lines_without_effect_are_told(etc: Etc) -> None:
    path = etc.configure("[debug]\nverbose=1\n")
    assert load_credentials(path).warnings[0].startswith(f"{path}, line 2: ")


UNUSABLE = {
    "absent": (None, "The configuration @/tlshd.conf can't be read: No such file or directory."),
    "no key file": ("loglevel\n", "@/tlshd.conf, line 1: "),
    "absent revocation lists": (
        "[authenticate.client]\nx509.truststore=@/ca.pem\nx509.crl=@/absent\n",
        "The file of revocation lists @/absent can't be read: No such file or directory.",
    ),
    "no revocation list": (
        "[authenticate.server]\nx509.truststore=@/ca.pem\nx509.crl=@/ca.pem\n",
        "@/ca.pem: The file holds no revocation list, in PEM (X509 CRL) or in DER.",
    ),
    "forged revocation list": (
        "[authenticate.server]\nx509.truststore=@/ca.pem\nx509.crl=@/forged.pem\n",
        "@/forged.pem: The revocation list of CN=Test Root has a signature that is not its issuer's.",
    ),
    "absent trust store": (
        "[authenticate.client]\nx509.truststore=@/absent\n",
        "The trust store @/absent can't be read: No such file or directory.",
    ),
    "directory for a trust store": (
        "[authenticate.client]\nx509.truststore=@\n",
        "The trust store @ can't be read: Is a directory.",
    ),
    "no certificate in the trust store": (
        "[authenticate.client]\nx509.truststore=@/server.key\n",
        "@/server.key: The trust store holds no certificate that can be used.",
    ),
    "key of another certificate": (
        "[authenticate.server]\nx509.certificate=@/server.pem\nx509.private_key=@/client.key\n",
        "@/server.pem, @/client.key: The private key does not belong to the certificate",
    ),
    "absent key": (
        "[authenticate.server]\nx509.certificate=@/server.pem\nx509.private_key=@/absent\n",
        "The server's private key @/absent can't be read: No such file or directory.",
    ),
    "absent certificate": (
        "[authenticate.client]\nx509.certificate=@/absent\nx509.private_key=@/client.key\n",
        "The client's certificate @/absent can't be read: No such file or directory.",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_tells_what_is_wrong(etc: Etc, text: str | None, sentence: str) -> None:
    path = etc.path / "tlshd.conf" if text is None else etc.configure(text)
    with pytest.raises(ConfigurationUnusable) as caught:
        load_credentials(path)
    assert str(caught.value).startswith(sentence.replace("@", str(etc.path)))


def test_a_configuration_that_is_no_text_is_told(etc: Etc) -> None:
    path = etc.file("tlshd.conf", b"[debug]\n\xff\xfe\n")
    with pytest.raises(ConfigurationUnusable, match="is not UTF-8 text"):
        load_credentials(path)


def test_a_huge_file_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigurationUnusable, match="a configuration has at most"):
        load_credentials(Path("/dev/zero"))


def test_a_reload_that_fails_changes_nothing(etc: Etc) -> None:
    path = etc.configure(FULL)
    store = CredentialStore(lambda: load_credentials(path))
    before = store.current
    etc.file("server.pem", "broken")
    with pytest.raises(ConfigurationUnusable, match="holds no PEM certificate"):
        store.reload()
    assert store.current is before
    etc.file("server.pem", server_certificate().certificate_pem())
    store.reload()
    assert store.current is not before


def test_the_named_configuration_wins_then_the_legacy_place(etc: Etc) -> None:
    legacy, usual = etc.path / "legacy", etc.path / "usual"
    assert find_configuration(etc.path / "named", (legacy, usual)) == etc.path / "named"
    assert find_configuration(None, (legacy, usual)) is None
    usual.touch()
    assert find_configuration(None, (legacy, usual)) == usual
    legacy.touch()
    assert find_configuration(None, (legacy, usual)) == legacy
