"""Puts the keys into the socket: TCP_ULP "tls", then TLS_TX and TLS_RX."""

import errno
import os
import socket
from typing import Final, Protocol

from ktls_agent.sansio.ktls import (
    SOL_TLS,
    TCP_ULP,
    TCP_ULP_TLS,
    TLS_RX,
    TLS_TX,
    KernelSecrets,
    pack_crypto_info,
)

_STEPS: Final = {TLS_TX: "TLS_TX", TLS_RX: "TLS_RX"}


class KeysRefused(Exception):  # noqa: N818 - a verdict of the kernel's
    """The kernel did not take the keys; the text is a sentence."""


class KeyInstaller(Protocol):
    """Hands a connection's keys to whoever goes on with it."""

    def install(self, sock: socket.socket, secrets: KernelSecrets) -> None:
        """Install both directions.

        Raises:
            KeysRefused: One was refused.
        """
        ...


class KernelKeyInstaller:
    """Installs the keys in the kernel; a `KeyInstaller`."""

    def install(self, sock: socket.socket, secrets: KernelSecrets) -> None:
        """See `KeyInstaller`."""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, TCP_ULP_TLS)
        except OSError as error:
            raise KeysRefused(_ulp_sentence(error)) from error
        for direction, name in _STEPS.items():
            try:
                sock.setsockopt(SOL_TLS, direction, pack_crypto_info(secrets, direction))
            except OSError as error:
                raise KeysRefused(
                    f"The kernel refused the keys of {name} for {secrets.cipher.name}: {os.strerror(error.errno or 0)}."
                ) from error


def _ulp_sentence(error: OSError) -> str:
    what = f"The kernel refused TCP_ULP tls: {os.strerror(error.errno or 0)}."
    if error.errno == errno.ENOENT:
        return f"{what} It has no kernel TLS: load it with `modprobe tls` (CONFIG_TLS)."
    if error.errno == errno.ENOTCONN:
        return f"{what} The connection ended before the keys were in."
    return what
