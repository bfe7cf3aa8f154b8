"""Inputs from which fuzzing starts: what real counterparts say, made here."""

import os

from ktls_agent.sansio.ktls import TLS_TX, KernelSecrets, KtlsCipher, TrafficKey, pack_crypto_info
from ktls_agent.sansio.netlink import spec
from ktls_agent.sansio.netlink.client import GenlClient
from ktls_agent.sansio.netlink.events import CertificateSerials
from ktls_agent.sansio.rpc_tls import encode_starttls_reply
from ktls_agent.sansio.testing.simulated_kernel import PendingRequest, SimulatedKernel
from ktls_agent.sansio.tls.engine import TlsEngine

from . import targets

_CONFIGURATION = b"""[debug]
loglevel=1
[authenticate]
keyrings=.nvme;.nfs
[authenticate.client]
x509.truststore=/etc/ca.pem
x509.certificate=/etc/client.pem
x509.private_key=/etc/client.key
"""


def _netlink() -> tuple[list[bytes], list[bytes]]:
    """Datagrams to the agent and to the kernel, of one request from READY to DONE."""
    client = GenlClient()
    kernel = SimulatedKernel(install=lambda _: 3)
    to_kernel = [client.resolve_family().datagram]
    to_agent = kernel.receive_datagram(to_kernel[0])
    for answer in to_agent:
        client.receive_datagram_untrusted(answer)
    kernel.join_group(kernel.family.groups[spec.MulticastGroup.TLSHD])
    kernel.post(
        PendingRequest(
            message_type=1,
            auth_mode=3,
            peername="server.test",
            certificates=(CertificateSerials(certificate=5, private_key=6),),
        )
    )
    for datagram in (client.accept().datagram, client.done(sockfd=3, status=0, remote_auth=(7,)).datagram):
        to_kernel.append(datagram)
        to_agent += kernel.receive_datagram(datagram)
    return to_agent, to_kernel


def _flights(client: TlsEngine, server: TlsEngine) -> tuple[bytes, bytes]:
    """Everything that a client and a server say in one handshake."""
    client.start()
    server.start()
    said = {client: b"", server: b""}
    for _ in range(3):
        for sender, receiver in ((client, server), (server, client)):
            data = sender.data_to_send()
            said[sender] += data
            if data:
                receiver.receive_data(data)
                targets._next_event(receiver)
    return said[client], said[server]


def _crypto_info(cipher: KtlsCipher, key_length: int) -> bytes:
    key = TrafficKey(key=os.urandom(key_length), iv=bytes(12), sequence=0)
    return pack_crypto_info(KernelSecrets(version=0x0304, cipher=cipher, tx=key, rx=key), TLS_TX)


def seeds() -> dict[str, list[bytes]]:
    """Seeds by the target's name."""
    to_agent, to_kernel = _netlink()
    client, server = _flights(targets._client(), targets._server())
    psk_client, psk_server = _flights(targets._psk_client(), targets._psk_server())
    return {
        "netlink_session": to_agent,
        "kernel_side": to_kernel,
        "tlshd_conf": [_CONFIGURATION],
        "crypto_info": [
            _crypto_info(KtlsCipher.AES_GCM_128, 16),
            _crypto_info(KtlsCipher.CHACHA20_POLY1305, 32),
        ],
        "certificates": [*targets._SERVER.chain, targets._ROOT.der()],
        "tls_client": [server],
        "tls_server": [client],
        "psk_client": [psk_server],
        "psk_server": [psk_client],
        "nvme_identity": [
            b"NVMe0R01 nqn.2014-08.org.nvmexpress:uuid:1 nqn.2024-01.test:sub",
            b"NVMe1G02 nqn.2014-08.org.nvmexpress:uuid:1 nqn.2024-01.test:sub " + b"A" * 64,
        ],
        "rpc_reply": [
            encode_starttls_reply(bytes([0, 0, 0, 1])),
            encode_starttls_reply(bytes([0, 0, 0, 1]), b"x"),
        ],
        "behind_handshake": [b"\x04\x00\x00\x05ticks\x16", b"\x02\x74\x15"],
        "session_ticket": [b"\x04\x00\x00\x05ticks\x16", b"\x17\x03\x03\x00\x12" + bytes(18)],
    }
