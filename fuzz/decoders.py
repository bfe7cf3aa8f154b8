"""Targets of the decoders: one function of bytes each, which raises its documented error or nothing."""

from collections.abc import Sequence, Sized
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests import pki

from ktls_agent.sansio.config import ConfigError, parse_tlshd_conf
from ktls_agent.sansio.ktls import (
    TLS_TX,
    CryptoInfoError,
    KernelSecrets,
    KtlsCipher,
    TrafficKey,
    pack_crypto_info,
    unpack_crypto_info_untrusted,
)
from ktls_agent.sansio.netlink.codec import (
    MAX_ATTRIBUTES,
    NetlinkDecodeError,
    decode_accept_reply_untrusted,
    decode_attributes_untrusted,
    decode_done_untrusted,
    decode_family_untrusted,
    decode_handler_class_untrusted,
    read_attributes_untrusted,
    split_genl_untrusted,
    split_messages_untrusted,
)
from ktls_agent.sansio.netlink.events import AcceptReply, CertificateSerials, FamilyResolved
from ktls_agent.sansio.netlink.messages import encode_accept_reply, encode_done, encode_new_family
from ktls_agent.sansio.netlink.spec import (
    AcceptAttribute,
    AttributeSet,
    CtrlAttribute,
    CtrlGroupAttribute,
    DoneAttribute,
    NlmsgerrAttribute,
    X509Attribute,
)
from ktls_agent.sansio.nvme import PskUnusable, choose_hash_untrusted
from ktls_agent.sansio.probe import look_behind_untrusted
from ktls_agent.sansio.request import UnanswerableReply, parse_request_untrusted
from ktls_agent.sansio.rpc_tls import (
    MARK_LENGTH,
    RpcTlsError,
    encode_starttls_reply,
    offers_tls_untrusted,
    reply_length_untrusted,
)
from ktls_agent.sansio.status import Cause
from ktls_agent.sansio.tls.certificates import alternative_names
from ktls_agent.sansio.tls.diagnosis import MAX_REASON
from ktls_agent.sansio.tls.parameters import PSK_HASHES, CertificateRejected, PeerVerifier
from ktls_agent.sansio.tls.primitives import SUITES_BY_NAME, TAG_LENGTH, RecordKey
from ktls_agent.sansio.tls.records import MAX_PLAINTEXT
from ktls_agent.sansio.tls.revocation import RevocationListError, RevocationLists
from ktls_agent.sansio.tls.tickets import ticket_waits_untrusted
from ktls_agent.sansio.tls.verify import ServerCertificateVerifier

from . import mutators, world
from .mutators import Mutator
from .target import Target

# Netlink

_TABLES: Final[Sequence[type[AttributeSet]]] = (
    AcceptAttribute,
    DoneAttribute,
    CtrlAttribute,
    CtrlGroupAttribute,
    NlmsgerrAttribute,
    X509Attribute,
)
_DECODERS: Final = (decode_done_untrusted, decode_family_untrusted, decode_handler_class_untrusted)
_FAMILY: Final = 0x23


def netlink_attributes(data: bytes) -> None:
    """A chain of attributes, nested ones among them, by every table."""
    for table in _TABLES:
        found = read_attributes_untrusted(data, table)
        kept: list[Sized] = [
            *found.numbers.values(),
            *found.texts.values(),
            *found.nests.values(),
            found.unknown,
        ]
        assert sum(len(values) for values in kept) <= MAX_ATTRIBUTES
        assert all(len(values) == 1 or name.repeated for name, values in found.numbers.items())
        try:
            assert decode_attributes_untrusted(data, table) == found
        except NetlinkDecodeError as error:
            assert found.defect == str(error)
    for decode in _DECODERS:
        try:
            decode(data)
        except NetlinkDecodeError as error:
            assert 0 < len(str(error)) < MAX_REASON
    _accept_reply(data)


def _accept_reply(chain: bytes) -> None:
    """ACCEPT's reply is never lost, and says after encoding what it said before."""
    reply = decode_accept_reply_untrusted(chain)
    asked = parse_request_untrusted(reply)
    assert isinstance(asked, UnanswerableReply) == (reply.sockfd is None)
    if reply.defect is None and not reply.unknown:
        (message,) = split_messages_untrusted(encode_accept_reply(reply, family_id=_FAMILY, sequence=1))
        assert decode_accept_reply_untrusted(split_genl_untrusted(message.payload)[1]) == reply


def chains() -> list[bytes]:
    """The attributes of ACCEPT's reply, of DONE, and of the controller's answer."""
    reply = AcceptReply(
        sockfd=3,
        message_type=1,
        timeout_ms=10_000,
        auth_mode=3,
        peer_identities=(7, 8),
        certificates=(CertificateSerials(certificate=5, private_key=6),) * 2,
        peername="server.test",
        keyring=9,
    )
    datagrams = [
        encode_accept_reply(reply, family_id=_FAMILY, sequence=1),
        encode_done(family_id=_FAMILY, sequence=1, status=13, sockfd=3, remote_auth=(1, 2)),
        encode_new_family(
            FamilyResolved(family_id=_FAMILY, version=1, groups={"none": 9, "tlshd": 10}), sequence=1
        ),
    ]
    return [
        split_genl_untrusted(message.payload)[1]
        for datagram in datagrams
        for message in split_messages_untrusted(datagram)
    ]


# Configuration


def tlshd_conf(data: bytes) -> None:
    """A configuration file."""
    try:
        _, warnings = parse_tlshd_conf(data.decode(errors="surrogateescape"), source="fuzz")
        assert all(warnings)
    except ConfigError as error:
        assert str(error)


_CONFIGURATION: Final = b"""[debug]
loglevel=1
tls=0
nl=0
[authenticate]
keyrings=.nvme;.nfs
[authenticate.client]
x509.truststore=/etc/ca.pem
x509.certificate=/etc/client.pem
x509.private_key=/etc/client.key
[authenticate.server]
x509.crl=/etc/crl.pem
"""


# Keys


def crypto_info(data: bytes) -> None:
    """What an agent gave to setsockopt, at the simulated kernel: what is taken is what would be packed."""
    try:
        cipher, key = unpack_crypto_info_untrusted(data)
    except CryptoInfoError as error:
        assert str(error)
        return
    assert pack_crypto_info(KernelSecrets(version=0x0304, cipher=cipher, tx=key, rx=key), TLS_TX) == data


def _crypto_infos() -> list[bytes]:
    return [
        pack_crypto_info(KernelSecrets(version=0x0304, cipher=suite.ktls, tx=key, rx=key), TLS_TX)
        for suite in SUITES_BY_NAME.values()
        for key in [TrafficKey(key=bytes(range(suite.key_length)), iv=bytes(12), sequence=1)]
    ]


def nvme_identity(data: bytes) -> None:
    """The name of a pre-shared key, as a peer offers it or a keyring has it, with secrets of both lengths."""
    for length in (32, 48):
        try:
            assert choose_hash_untrusted(data, bytes(length)) in PSK_HASHES
        except PskUnusable as error:
            assert str(error)


def _nvme_identities() -> list[bytes]:
    return [
        b"NVMe0R01 nqn.2014-08.org.nvmexpress:uuid:1 nqn.2024-01.test:sub",
        b"NVMe1G02 nqn.2014-08.org.nvmexpress:uuid:1 nqn.2024-01.test:sub " + b"A" * 64,
    ]


def session_ticket(data: bytes) -> None:
    """What waits in the socket behind a handshake: once as it is, once under the right key."""
    suite = SUITES_BY_NAME["AES_128_GCM"]
    key = TrafficKey(key=bytes(16), iv=bytes(12), sequence=0)
    secrets = KernelSecrets(version=0x0304, cipher=KtlsCipher.AES_GCM_128, tx=key, rx=key)
    ticket_waits_untrusted(data, secrets)
    inner = data[:MAX_PLAINTEXT]
    header = b"\x17\x03\x03" + (len(inner) + TAG_LENGTH).to_bytes(2)
    record = header + RecordKey(suite=suite, key=key.key, iv=key.iv).seal(inner, header)
    is_ticket = inner.rstrip(b"\0")[-1:] == b"\x16" and inner[:1] == b"\x04"
    assert ticket_waits_untrusted(record, secrets) == is_ticket


def _tickets() -> list[bytes]:
    return [b"\x04\x00\x00\x05ticks\x16", b"\x17\x03\x03\x00\x12" + bytes(18)]


# Certificates

_VERIFIERS: Final[Sequence[PeerVerifier]] = (world.server_verifier(), world.client_verifier())


def certificates(data: bytes) -> None:
    """A certificate as it is, and signed by the root: as a leaf, as an authority, and as what nobody asked for."""
    for verifier in _VERIFIERS:
        for certificate in (data, resigned(data)):
            _judge(verifier, [certificate])
            _judge(verifier, [world.DEEP_LEAF, certificate])
        _judge(verifier, [data, world.INTERMEDIATE])


def _judge(verifier: PeerVerifier, chain: list[bytes]) -> None:
    try:
        peer, leaf = verifier.verify_untrusted(chain)
    except CertificateRejected as rejected:
        assert rejected.failure.cause is not Cause.INTERNAL
        assert rejected.failure.reason.isprintable()
        assert 0 < len(rejected.failure.reason) <= MAX_REASON
        return
    assert peer.chain == tuple(chain)
    assert peer.not_after >= pki.NOW
    if isinstance(verifier, ServerCertificateVerifier):
        names = {str(name.value).lower() for name in alternative_names(leaf)}
        assert names & {world.SERVER_NAME, "*.test"}
    assert leaf.public_bytes(serialization.Encoding.DER) == chain[0]


def resigned(data: bytes) -> bytes:
    """The certificate with a signature of the root over whatever it says now; other bytes as they are."""
    tree = mutators.DER(data)
    outer = tree[0].children if tree else None
    if not outer:
        return data
    told = outer[0].write()
    signature = world.authority_key(world.ROOT_NAME).sign(
        told, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    )
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    return mutators.der(b"\x30", told + algorithm + mutators.der(b"\x03", b"\0" + signature))


def _certificates() -> list[bytes]:
    return [*world.CLIENT.chain, world.LEAF, world.DEEP_LEAF, world.ROOT, *_odd_certificates()]


def _odd_certificates() -> list[bytes]:
    """Certificates with extensions that the ordinary ones have not."""
    names: list[x509.GeneralName] = [x509.DNSName("*.test"), x509.UniformResourceIdentifier("urn:x")]
    constraints = x509.NameConstraints(permitted_subtrees=[x509.DNSName("test")], excluded_subtrees=None)
    odd: list[list[tuple[x509.ExtensionType, bool]]] = [
        [(x509.SubjectAlternativeName(names), True), (x509.ExtendedKeyUsage([pki.RPC_TLS_SERVER]), True)],
        [(x509.BasicConstraints(ca=True, path_length=0), True), (constraints, True)],
    ]
    key = world.authority_key(world.INTERMEDIATE_NAME).public_key()
    return [
        world.certificate(world.INTERMEDIATE_NAME, key, issuer=world.ROOT_NAME, extensions=extensions)
        for extensions in odd
    ]


def revocation_lists(data: bytes) -> None:
    """A file of revocation lists, held against the root that they claim to be of."""
    try:
        lists = RevocationLists.from_file(data)
        lists.check_anchors(world.STORE)
    except RevocationListError as error:
        assert str(error).isprintable()
        return
    assert all(sentence.isprintable() for sentence in lists.oddities(pki.NOW))


def _revocation_lists() -> list[bytes]:
    key = world.authority_key(world.ROOT_NAME)
    issuer = x509.load_der_x509_certificate(world.ROOT).subject
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer)
    builder = builder.last_update(pki.NOW - pki.DAY).next_update(pki.NOW + pki.DAY)
    revoked = x509.RevokedCertificateBuilder().serial_number(77).revocation_date(pki.NOW - pki.DAY)
    reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
    builder = builder.add_revoked_certificate(revoked.add_extension(reason, critical=False).build())
    made = builder.add_extension(x509.CRLNumber(1), critical=False).sign(
        key, hashes.SHA256(), ecdsa_deterministic=True
    )
    return [made.public_bytes(serialization.Encoding.DER), made.public_bytes(serialization.Encoding.PEM)]


def rpc_reply(data: bytes) -> None:
    """A server's answer to a call with AUTH_TLS: its record mark, then the reply."""
    try:
        length = reply_length_untrusted(data[:MARK_LENGTH])
        offers_tls_untrusted(data[MARK_LENGTH : MARK_LENGTH + length], 1)
    except RpcTlsError as error:
        assert str(error)


def behind_handshake(data: bytes) -> None:
    """What a server says behind its handshake, as it is and under the right key."""
    suite = SUITES_BY_NAME["AES_128_GCM"]
    key = TrafficKey(key=bytes(16), iv=bytes(12), sequence=0)
    secrets = KernelSecrets(version=0x0304, cipher=suite.ktls, tx=key, rx=key)
    look_behind_untrusted(data, secrets)
    inner = data[:MAX_PLAINTEXT]
    header = b"\x17\x03\x03" + (len(inner) + TAG_LENGTH).to_bytes(2)
    record = header + RecordKey(suite=suite, key=key.key, iv=key.iv).seal(inner, header)
    assert look_behind_untrusted(record, secrets).tickets <= len(inner)


def _rpc_replies() -> list[bytes]:
    return [encode_starttls_reply(bytes([0, 0, 0, 1]), verifier) for verifier in (b"STARTTLS", b"x")]


TARGETS: Final = (
    Target(
        run=revocation_lists,
        seeds=_revocation_lists,
        mutator=Mutator(mutators.DER),
        max_length=2048,
        edges_only=True,
        keep=60,
    ),
    Target(run=rpc_reply, seeds=_rpc_replies, max_length=512),
    Target(
        run=behind_handshake, seeds=lambda: [b"\x04\x00\x00\x05ticks\x16", b"\x02\x74\x15"], max_length=512
    ),
    Target(run=netlink_attributes, seeds=chains, mutator=Mutator(mutators.ATTRIBUTES), max_length=1024),
    Target(run=tlshd_conf, seeds=lambda: [_CONFIGURATION], mutator=Mutator(mutators.lines)),
    Target(run=crypto_info, seeds=_crypto_infos, max_length=128),
    Target(run=nvme_identity, seeds=_nvme_identities, max_length=512),
    Target(run=session_ticket, seeds=_tickets, max_length=512),
    Target(
        run=certificates,
        seeds=_certificates,
        mutator=Mutator(mutators.DER),
        weight=3,
        max_length=2048,
        edges_only=True,
    ),
)
