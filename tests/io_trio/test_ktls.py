"""What the kernel says about keys, in sentences; real kernels are asked in tests/kernel."""

import errno
import socket

import pytest

from ktls_agent.io_trio.ktls import KernelKeyInstaller, KeysRefused
from ktls_agent.sansio.ktls import (
    SOL_TLS,
    TCP_ULP,
    TLS_RX,
    TLS_TX,
    KernelSecrets,
    KtlsCipher,
    TrafficKey,
    pack_crypto_info,
)

SECRETS = KernelSecrets(
    version=0x0304,
    cipher=KtlsCipher.AES_GCM_128,
    tx=TrafficKey(key=bytes(16), iv=bytes(12), sequence=0),
    rx=TrafficKey(key=bytes(range(16)), iv=bytes(12), sequence=1),
)


class Socket(socket.socket):
    """Takes options, or refuses the one it is told to."""

    refused: tuple[int, int, int] | None = None

    def setsockopt(self, level: int, option: int, value: object) -> None:  # type: ignore[override]
        if self.refused and self.refused[:2] == (level, option):
            raise OSError(self.refused[2], "x")
        self.options = {**getattr(self, "options", {}), (level, option): value}


@pytest.fixture
def sock() -> Socket:
    made = Socket()
    made.close()
    return made


def test_installs_the_protocol_and_both_keys_in_order(sock: Socket) -> None:
    KernelKeyInstaller().install(sock, SECRETS)
    assert list(sock.options.items()) == [
        ((socket.IPPROTO_TCP, TCP_ULP), b"tls"),
        ((SOL_TLS, TLS_TX), pack_crypto_info(SECRETS, TLS_TX)),
        ((SOL_TLS, TLS_RX), pack_crypto_info(SECRETS, TLS_RX)),
    ]


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (
            (socket.IPPROTO_TCP, TCP_ULP, errno.ENOENT),
            (
                "The kernel refused TCP_ULP tls: No such file or directory. It has no kernel TLS: load it with "
                "`modprobe tls` (CONFIG_TLS)."
            ),
        ),
        (
            (socket.IPPROTO_TCP, TCP_ULP, errno.ENOTCONN),
            (
                "The kernel refused TCP_ULP tls: Transport endpoint is not connected. The connection ended before the "
                "keys were in."
            ),
        ),
        (
            (socket.IPPROTO_TCP, TCP_ULP, errno.EPERM),
            "The kernel refused TCP_ULP tls: Operation not permitted.",
        ),
        (
            (SOL_TLS, TLS_TX, errno.EINVAL),
            "The kernel refused the keys of TLS_TX for AES_GCM_128: Invalid argument.",
        ),
        (
            (SOL_TLS, TLS_RX, errno.EBUSY),
            "The kernel refused the keys of TLS_RX for AES_GCM_128: Device or resource busy.",
        ),
    ],
)
def test_tells_what_the_kernel_refused(sock: Socket, refused: tuple[int, int, int], sentence: str) -> None:
    sock.refused = refused
    with pytest.raises(KeysRefused) as caught:
        KernelKeyInstaller().install(sock, SECRETS)
    assert str(caught.value) == sentence
