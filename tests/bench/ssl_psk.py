"""External pre-shared keys for `ssl`, which has them from Python 3.13 on.

Before that, OpenSSL's own callbacks are set by ctypes, in the library that `ssl` has loaded.  Either way each side
calls one Python function for each handshake.
"""

import _ssl
import ctypes
import ssl
import sys
from collections.abc import Callable
from typing import Any, Final

_Size = ctypes.c_uint
_Bytes = ctypes.POINTER(ctypes.c_ubyte)
_CLIENT: Final = ctypes.CFUNCTYPE(_Size, ctypes.c_void_p, ctypes.c_char_p, _Bytes, _Size, _Bytes, _Size)
_SERVER: Final = ctypes.CFUNCTYPE(_Size, ctypes.c_void_p, ctypes.c_char_p, _Bytes, _Size)

_kept: list[Any] = []
"""The callbacks, which OpenSSL holds without Python knowing."""


def use_psk(client: ssl.SSLContext, server: ssl.SSLContext, identity: bytes, secret: bytes) -> None:
    """Give both contexts the same key."""
    if sys.version_info >= (3, 13):
        client.set_psk_client_callback(lambda _hint: (identity.decode(), secret))
        server.set_psk_server_callback(lambda _identity: secret)
        return

    def offer(_ssl: Any, _hint: Any, name: Any, _room: int, key: Any, _size: int) -> int:
        ctypes.memmove(name, identity + b"\0", len(identity) + 1)
        ctypes.memmove(key, secret, len(secret))
        return len(secret)

    def find(_ssl: Any, _identity: Any, key: Any, _size: int) -> int:
        ctypes.memmove(key, secret, len(secret))
        return len(secret)

    library = ctypes.CDLL(_ssl.__file__)
    # `ssl` names the context of sessions, which OpenSSL's client then misses in the one it makes of a key.
    library.SSL_CTX_set_session_id_context(ctypes.c_void_p(_pointer(client)), b"", 0)
    _set(library.SSL_CTX_set_psk_client_callback, client, _CLIENT(offer))
    _set(library.SSL_CTX_set_psk_server_callback, server, _SERVER(find))


def _set(setter: Callable[..., Any], context: ssl.SSLContext, callback: Any) -> None:
    _kept.append(callback)
    setter(ctypes.c_void_p(_pointer(context)), callback)


def _pointer(context: ssl.SSLContext) -> int:
    """The SSL_CTX, which is the first member of the object behind its head (Modules/_ssl.c, PySSLContext)."""
    address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    assert address is not None
    return address
