"""A peer's certificate writes nothing to our standard error: here every warning is an error."""

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from ktls_agent.sansio.tls.certificates import quiet
from ktls_agent.sansio.tls.parameters import CertificateRejected
from ktls_agent.sansio.tls.truststore import TrustStore
from ktls_agent.sansio.tls.verify import ClientCertificateVerifier, ServerCertificateVerifier
from tests.pki import NOW, Authority


def odd_name() -> x509.Name:
    with quiet():
        attribute = x509.NameAttribute(NameOID.COUNTRY_NAME, "Nowhere at all", _validate=False)
    return x509.Name([attribute])


def test_an_authority_with_an_odd_country_warns_nobody() -> None:
    with quiet():
        authority = Authority("Odd", subject=odd_name())
        leaf = authority.issue(("server.test",))
    verifier = ServerCertificateVerifier(TrustStore.from_pem(authority.pem()), name="server.test", now=NOW)
    peer, _ = verifier.verify_untrusted(leaf.chain)
    assert peer.issuer == "C=Nowhere at all"


def test_a_stranger_with_an_odd_country_warns_nobody() -> None:
    store = TrustStore.from_pem(Authority("Ours").pem())
    with quiet():
        leaf = Authority("Odd", subject=odd_name()).issue(("client.test",))
    with pytest.raises(CertificateRejected, match="Nowhere at all"):
        ClientCertificateVerifier(store, now=NOW).verify_untrusted(leaf.chain)
