"""Certificate, CertificateVerify, Finished and CertificateRequest (RFC 8446, 4.3.2 and 4.4), against both roles."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ktls_agent.sansio.status import Alert
from tests import pki
from tests.conformance.situations import (
    ROLES,
    SITUATIONS,
    Situation,
    anonymous_peer,
    client_peer,
    each,
    judged,
    refused,
    server_peer,
)
from tests.peers import messages
from tests.peers.adversary import (
    ALL_SCHEMES,
    Adversary,
    ClientAdversary,
    Protection,
    ServerAdversary,
    after,
    does,
    instead,
    signature_over,
    signed_content,
    without,
)
from tests.peers.messages import MessageType, Type, message, vector
from tests.tls.handshakes import (
    authority,
    client_engine,
    client_identity,
    identity,
    mutual_server,
    server_engine,
)


def end_of(situation: Situation) -> Protection:
    return situation.protection_at(len(situation.names()))


def edited(situation: Situation, kind: int, edit: Callable[[bytes], bytes]) -> Any:
    peer = situation.peer()
    peer.alter[kind] = edit
    return peer, judged(peer, situation.script(peer))


def flips(at: int) -> Callable[[bytes], bytes]:
    """Change a bit of that byte; a negative number counts from the end."""

    def edit(data: bytes) -> bytes:
        place = at % len(data)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return edit


# Finished


@each()
def test_a_finished_of_wrong_content(situation: Situation) -> None:
    """4.4.4: whichever bit is wrong, decrypt_error."""
    for at in (4, 5, 20, -1):
        peer, verdict = edited(situation, MessageType.FINISHED, flips(at))
        refused(peer, verdict, Alert.DECRYPT_ERROR, end_of(situation))


@each()
@pytest.mark.parametrize("length", [0, 1, 12, 20, 31, 33, 47, 48, 49, 64, 255, 1000, 2**14, 60000])
def test_a_finished_of_wrong_length(situation: Situation, length: int) -> None:
    peer, verdict = edited(
        situation, MessageType.FINISHED, lambda data: message(20, (data[4:] + bytes(length))[:length])
    )
    refused(peer, verdict, Alert.DECODE_ERROR, end_of(situation))


@each()
@pytest.mark.parametrize("length", [49, 2**16, 100_000])
def test_a_finished_that_never_ends_is_not_waited_for(situation: Situation, length: int) -> None:
    peer, verdict = edited(situation, MessageType.FINISHED, lambda _: b"\x14" + length.to_bytes(3))
    refused(peer, verdict, Alert.DECODE_ERROR, end_of(situation))


@each()
def test_the_finished_of_the_other_role(situation: Situation) -> None:
    def wrong(peer: Adversary) -> None:
        secret = peer.handshake_secrets[1 if peer.role == "client" else 0]
        data = peer.schedule.verify_data(secret, peer.transcript)
        peer.message(message(MessageType.FINISHED, data))

    peer = situation.peer()
    script = instead(situation.script(peer), "finished", does(wrong))
    refused(peer, judged(peer, [*script[: len(situation.names())]]), Alert.DECRYPT_ERROR, end_of(situation))


# CertificateVerify

SIGNERS: Final = [
    item for item in SITUATIONS if item.name in ("client x509", "server mutual", "client mutual retried")
]


def signed(situation: Situation, sign: Callable[[Any], bytes]) -> Any:
    peer = situation.peer()
    step = does(lambda sender: sender.message(sign(sender)))
    return peer, judged(peer, instead(situation.script(peer), "certificate_verify", step))


def contents() -> dict[str, Callable[[Any], bytes]]:
    def content(peer: Any, role: str | None = None) -> bytes:
        return signed_content(
            peer.role if role is None else role, peer.transcript, peer.schedule.suite.hash_name
        )

    return {
        "the other role's context": lambda p: content(p, "server" if p.role == "client" else "client"),
        "no role": lambda p: content(p, ""),
        "63 spaces": lambda p: content(p)[1:],
        "65 spaces": lambda p: b" " + content(p),
        "no separator": lambda p: content(p).replace(b"\0", b"", 1),
        "tabs": lambda p: content(p).replace(b" " * 64, b"\t" * 64),
        "the hash alone": lambda p: content(p)[-32:],
        "nothing": lambda _: b"",
    }


@each(SIGNERS)
@pytest.mark.parametrize("case", contents())
def test_a_signature_over_something_else(situation: Situation, case: str) -> None:
    """4.4.3: context string, padding and transcript are what is signed."""

    def sign(peer: Any) -> bytes:
        signature = signature_over(peer.identity, peer.scheme, contents()[case](peer))
        return messages.certificate_verify(peer.scheme, signature)

    peer, verdict = signed(situation, sign)
    refused(peer, verdict, Alert.DECRYPT_ERROR, end_of(situation))


@each(SIGNERS)
@pytest.mark.parametrize(
    "signature", [b"", b"\0", bytes(64), bytes(72), b"\x30\x06\2\1\0\2\1\0", bytes(60000)]
)
def test_what_is_no_signature(situation: Situation, signature: bytes) -> None:
    peer, verdict = signed(situation, lambda sender: messages.certificate_verify(sender.scheme, signature))
    refused(peer, verdict, Alert.DECRYPT_ERROR, end_of(situation))


@each(SIGNERS)
@pytest.mark.parametrize("at", [8, 12, 30, -1])
def test_a_signature_with_one_bit_wrong(situation: Situation, at: int) -> None:
    peer, verdict = edited(situation, MessageType.CERTIFICATE_VERIFY, flips(at))
    refused(peer, verdict, Alert.DECRYPT_ERROR, end_of(situation))


KINDS: Final[tuple[pki.KeyType, ...]] = ("p256", "p384", "p521", "rsa2048", "ed25519", "ed448")
OWN: Final = {
    "p256": {0x0403},
    "p384": {0x0503},
    "p521": {0x0603},
    "rsa2048": {0x0804, 0x0805, 0x0806},
    "ed25519": {0x0807},
    "ed448": {0x0808},
}


def signer(role: str, kind: pki.KeyType) -> tuple[Any, Any, Protection]:
    if role == "client":
        server = ServerAdversary(client_engine(), identity(kind))
        return server, server.script(), Protection.HANDSHAKE
    client = ClientAdversary(server_engine(mutual_server()), client_identity(kind))
    return client, client.script(certificate=True), Protection.APPLICATION


OTHER_SCHEMES: Final = (0x0201, 0x0203, 0x0303, 0x0401, 0x0501, 0x0601, 0x081A, 0x0A0A, 0x0000, 0xFFFF)
"""SHA-1, SHA-224, PKCS#1, Brainpool, GREASE, nothing."""


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_scheme_with_every_key(role: str, kind: pki.KeyType) -> None:
    """4.4.3: one that was offered, for this kind of key; PKCS#1 and SHA-1 never."""
    for scheme in (*ALL_SCHEMES, *OTHER_SCHEMES):
        peer, script, protection = signer(role, kind)
        peer.scheme = scheme
        verdict = judged(peer, script)
        if scheme in OWN[kind]:
            assert verdict.completed
        else:
            refused(peer, verdict, Alert.ILLEGAL_PARAMETER, protection)


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("salt", [0, 20, 31, 33, 48])
def test_a_salt_of_another_length(role: str, salt: int) -> None:
    """4.2.3: the salt of RSASSA-PSS is as long as the digest."""
    peer, script, protection = signer(role, "rsa2048")

    def sign(sender: Any) -> None:
        key = sender.identity.private_key
        assert isinstance(key, rsa.RSAPrivateKey)
        content = signed_content(sender.role, sender.transcript, sender.schedule.suite.hash_name)
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        sender.message(messages.certificate_verify(0x0804, key.sign(content, pss, hashes.SHA256())))

    verdict = judged(peer, instead(script, "certificate_verify", does(sign)))
    refused(peer, verdict, Alert.DECRYPT_ERROR, protection)


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_signature_by_another_key(role: str) -> None:
    peer, script, protection = signer(role, "p256")
    other = identity("p256", "other.test")
    assert other.private_key is not peer.identity.private_key
    peer.identity = other
    refused(peer, judged(peer, script), Alert.DECRYPT_ERROR, protection)


# Certificate


def entry(der: bytes, extensions: bytes = b"\0\0") -> bytes:
    return vector(der, 3) + extensions


def list_of(*entries: bytes, context: bytes = b"\0") -> bytes:
    return message(MessageType.CERTIFICATE, context + vector(b"".join(entries), 3))


Chain = Sequence[bytes]
CERTIFICATES: Final[dict[str, tuple[Callable[[Chain], bytes], Alert]]] = {
    "a context": (lambda chain: list_of(*map(entry, chain), context=b"\1c"), Alert.ILLEGAL_PARAMETER),
    "an empty certificate": (lambda _: list_of(entry(b"")), Alert.DECODE_ERROR),
    "an empty certificate behind": (
        lambda chain: list_of(*map(entry, chain), entry(b"")),
        Alert.DECODE_ERROR,
    ),
    "no extensions field": (lambda chain: list_of(entry(chain[0], b"")), Alert.DECODE_ERROR),
    "half an extension": (lambda chain: list_of(entry(chain[0], b"\0\3\0\5\0")), Alert.DECODE_ERROR),
    "no certificate but bytes": (lambda _: list_of(entry(b"bytes")), Alert.BAD_CERTIFICATE),
    "certificate with more": (lambda chain: list_of(entry(chain[0] + b"\0")), Alert.BAD_CERTIFICATE),
    "certificate cut short": (lambda chain: list_of(entry(chain[0][:-1])), Alert.BAD_CERTIFICATE),
    "far too many": (lambda chain: list_of(*[entry(chain[0])] * 101), Alert.BAD_CERTIFICATE),
    "a huge one": (lambda _: list_of(entry(bytes(100_000))), Alert.BAD_CERTIFICATE),
    "status_request": (
        lambda chain: list_of(entry(chain[0], b"\0\x09\0\5\0\5\1\0\0\1x")),
        Alert.UNSUPPORTED_EXTENSION,
    ),
    "of TLS 1.2": (
        lambda chain: message(MessageType.CERTIFICATE, vector(vector(chain[0], 3), 3)),
        Alert.DECODE_ERROR,
    ),
}


@each(ROLES)
@pytest.mark.parametrize("case", CERTIFICATES)
def test_certificates_that_are_refused(situation: Situation, case: str) -> None:
    make, alert = CERTIFICATES[case]
    peer = situation.peer()
    data = make(peer.chain)
    peer.alter[MessageType.CERTIFICATE] = lambda _: data
    refused(peer, judged(peer, situation.script(peer)), alert, end_of(situation))


@each(ROLES)
def test_a_certificate_twice_in_the_list_is_no_harm(situation: Situation) -> None:
    """4.4.2: implementations SHOULD be prepared to handle extraneous certificates and any order but the leaf's."""
    peer = situation.peer()
    peer.chain = [*peer.chain, *peer.chain]
    assert judged(peer, situation.script(peer)).completed


def test_a_server_without_a_certificate() -> None:
    """4.4.2.4: decode_error."""
    peer = server_peer()
    peer.chain = ()
    refused(peer, judged(peer, peer.script()), Alert.DECODE_ERROR, Protection.HANDSHAKE)


def test_a_client_without_a_certificate() -> None:
    """4.4.2.4: certificate_required; a CertificateVerify behind an empty list does not change that."""
    for with_verify in (False, True):
        peer = client_peer()
        script = peer.script(certificate=True)
        peer.chain = ()
        wanted = script if with_verify else without(script, "certificate_verify")
        refused(peer, judged(peer, wanted), Alert.CERTIFICATE_REQUIRED, Protection.APPLICATION)


def test_a_certificate_verify_behind_an_empty_certificate_that_is_allowed() -> None:
    peer = ClientAdversary(server_engine(mutual_server(require_client_certificate=False)), client_identity())
    script = peer.script(certificate=True)
    peer.chain = ()
    refused(peer, judged(peer, script), Alert.UNEXPECTED_MESSAGE, Protection.APPLICATION)


def test_a_client_certificate_that_nobody_asked_for() -> None:
    peer = anonymous_peer()
    extra = does(lambda sender: sender.message(messages.certificate(client_identity().chain)))
    verdict = judged(peer, after(peer.script(), "handshake_keys", extra))
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, Protection.APPLICATION)


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_leaf_whose_key_usage_lacks_digital_signature(role: str) -> None:
    """4.4.2.2: the digitalSignature bit MUST be set if keyUsage is there."""
    name = "server.test" if role == "client" else "client.test"
    usage = ((pki.key_usage("key_encipherment"), True),)
    leaf = authority().issue((name,), omit=(x509.KeyUsage,), extensions=usage).identity()
    peer: Any
    if role == "client":
        peer = ServerAdversary(client_engine(), leaf)
        script, protection = peer.script(), Protection.HANDSHAKE
    else:
        peer = ClientAdversary(server_engine(mutual_server()), leaf)
        script, protection = peer.script(certificate=True), Protection.APPLICATION
    refused(peer, judged(peer, script), Alert.UNSUPPORTED_CERTIFICATE, protection)


# CertificateRequest


REQUESTS: Final[dict[str, tuple[bytes, Alert]]] = {
    "a context": (
        messages.certificate_request([messages.signature_algorithms(0x0403)], context=b"c"),
        Alert.ILLEGAL_PARAMETER,
    ),
    "no signature_algorithms": (messages.certificate_request([]), Alert.MISSING_EXTENSION),
    "signature_algorithms_cert alone": (
        messages.certificate_request([(Type.SIGNATURE_ALGORITHMS_CERT, b"\0\2\4\3")]),
        Alert.MISSING_EXTENSION,
    ),
    "no schemes": (messages.certificate_request([messages.signature_algorithms()]), Alert.DECODE_ERROR),
    "empty signature_algorithms_cert": (
        messages.certificate_request(
            [messages.signature_algorithms(0x0403), (Type.SIGNATURE_ALGORITHMS_CERT, b"\0\0")]
        ),
        Alert.DECODE_ERROR,
    ),
    "half a scheme": (
        messages.certificate_request([(Type.SIGNATURE_ALGORITHMS, b"\0\3\4\3\4")]),
        Alert.DECODE_ERROR,
    ),
    "signature_algorithms of nothing": (
        messages.certificate_request([(Type.SIGNATURE_ALGORITHMS, b"")]),
        Alert.DECODE_ERROR,
    ),
    "no extensions field": (message(MessageType.CERTIFICATE_REQUEST, b"\0"), Alert.DECODE_ERROR),
    "of TLS 1.2": (message(MessageType.CERTIFICATE_REQUEST, b"\1\x40\0\2\4\3\0\0"), Alert.DECODE_ERROR),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_certificate_requests_that_are_refused(case: str) -> None:
    data, alert = REQUESTS[case]
    peer = server_peer()
    peer.alter[MessageType.CERTIFICATE_REQUEST] = lambda _: data
    refused(peer, judged(peer, peer.script(client_certificate=True)), alert, Protection.HANDSHAKE)


@pytest.mark.parametrize("schemes", [(0x0401,), (0x0804,), (0x0503,), (0xFFFF,)])
def test_a_client_signs_with_nothing_that_the_server_does_not_take(schemes: tuple[int, ...]) -> None:
    """4.4.2.3: it presents no certificate then."""
    peer = server_peer()
    peer.request_extensions = [messages.signature_algorithms(*schemes)]
    assert judged(peer, peer.script(client_certificate=True)).completed
    assert messages.read_certificate(peer.received[MessageType.CERTIFICATE]) == []
    assert MessageType.CERTIFICATE_VERIFY not in peer.received


def test_a_request_of_any_form_does_not_surprise_a_client_without_a_certificate() -> None:
    peer = ServerAdversary(client_engine(), identity())
    peer.request_extensions = [messages.signature_algorithms(0x0201), (Type.OID_FILTERS, b"\0\0")]
    assert judged(peer, peer.script(client_certificate=True)).completed
