"""One RPC-with-TLS peer that stops in mid-handshake (RFC 9289, section 4.1), with the standard library only.

mute-server PORT: answer every AUTH_TLS probe with STARTTLS, then say nothing more; until killed.
half-hello HOST silent|close: probe nfsd; send half a ClientHello; then wait for nfsd to hang up, or hang up.
"""

import socket
import ssl
import struct
import sys
import threading

NFS_PROGRAM = 100003
AUTH_NONE = 0
AUTH_TLS = 7
MAX_RECORD = 400  # a NULL call or its reply, with the longest verifier allowed, is shorter


def null_call(xid: int, flavor: int) -> bytes:
    """Make an RPC NULL call with its record mark (RFC 5531, sections 9 and 11)."""
    body = struct.pack(">10I", xid, 0, 2, NFS_PROGRAM, 4, 0, flavor, 0, AUTH_NONE, 0)
    return struct.pack(">I", 0x80000000 | len(body)) + body


def starttls_reply(call: bytes) -> bytes:
    """Make the reply that offers TLS to a call, given without its record mark (RFC 9289, section 4.1)."""
    body = call[:4] + struct.pack(">4I8sI", 1, 0, AUTH_NONE, 8, b"STARTTLS", 0)
    return struct.pack(">I", 0x80000000 | len(body)) + body


def record_length(mark: bytes) -> int:
    """Return the length that the record mark of a single short fragment gives.

    Raises:
        ValueError: it is not one.
    """
    word = int.from_bytes(mark, "big")
    if not word >> 31 or not 24 <= word & 0x7FFFFFFF <= MAX_RECORD:
        raise ValueError(f"record mark {word:#x}")
    return word & 0x7FFFFFFF


def reply_verifier(reply: bytes, xid: int) -> bytes:
    """Return the verifier of an accepted, successful reply, given without its record mark.

    Raises:
        ValueError: it is another kind of reply, or another call's.
    """
    got_xid, kind, status, _flavor, length = struct.unpack_from(">5I", reply)
    (accepted,) = struct.unpack_from(">I", reply, 20 + (length + 3) // 4 * 4)
    if (got_xid, kind, status, accepted) != (xid, 1, 0, 0):
        raise ValueError(f"reply {reply.hex()}")
    return reply[20 : 20 + length]


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """Receive that many bytes.

    Raises:
        EOFError: the peer closed before.
    """
    data = connection.recv(count, socket.MSG_WAITALL)
    if len(data) < count:
        raise EOFError("the peer closed the connection")
    return data


def client_hello() -> bytes:
    """Make a ClientHello record as OpenSSL sends it."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["sunrpc"])
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="server.test")
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a peer")


def start_tls(host: str, port: int = 2049) -> socket.socket:
    """Connect to nfsd up to where the ClientHello is due.

    Raises:
        ValueError: it does not offer TLS.
    """
    connection = socket.create_connection((host, port))
    connection.sendall(null_call(1, AUTH_TLS))
    reply = receive_exactly(connection, record_length(receive_exactly(connection, 4)))
    if reply_verifier(reply, 1) != b"STARTTLS":
        raise ValueError("no STARTTLS")
    return connection


def half_hello(host: str, ending: str) -> None:
    """Send half a ClientHello, and wait for the server to hang up if the ending is "silent"."""
    with start_tls(host) as connection:
        hello = client_hello()
        connection.sendall(hello[: len(hello) // 2])
        if ending == "silent":
            try:
                connection.recv(1)
            except ConnectionResetError:
                return


def serve_mutely(connection: socket.socket) -> None:
    """Offer TLS, then swallow whatever comes until the client hangs up."""
    with connection:
        call = receive_exactly(connection, record_length(receive_exactly(connection, 4)))
        connection.sendall(starttls_reply(call))
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            return


def main(arguments: list[str]) -> None:
    """Do what the module's docstring says."""
    match arguments:
        case ["half-hello", host, ("silent" | "close") as ending]:
            half_hello(host, ending)
        case ["mute-server", port]:
            listener = socket.create_server(("", int(port)))
            while True:
                threading.Thread(target=serve_mutely, args=[listener.accept()[0]], daemon=True).start()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
