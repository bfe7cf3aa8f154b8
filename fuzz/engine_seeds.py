"""Where fuzzing the engine starts: handshakes in good order, as bytes on the wire and as inputs of `peers`."""

from collections.abc import Iterable, Sequence
from typing import Final

from tests.peers import messages
from tests.peers.adversary import ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE
from tests.peers.messages import Extension, MessageType, Type, message

from ktls_agent.sansio.tls.primitives import HASHES, SUITES_BY_NUMBER

from .invariants import Answering
from .peers import ClientPeer, Extra, own_share, record, records
from .world import CLIENT, KEYS, SERVER, SERVER_NAME, engine

_AES_128, _AES_256, _CHACHA = 0x1301, 0x1302, 0x1303
_X25519, _P256, _P384 = 29, 23, 24
_ED25519: Final = 0x0807
_CCS: Final = record(CHANGE_CIPHER_SPEC, b"\x01")
_VERIFY: Final = messages.certificate_verify(_ED25519, bytes(64))


# On the wire


def _said(client_role: str, server_role: str) -> tuple[bytes, bytes]:
    """Everything that a client and a server say in one handshake."""
    client, server = Answering(engine(client_role)), Answering(engine(server_role))
    said = {client: b"", server: b""}
    for _ in range(3):
        for sender, receiver in ((client, server), (server, client)):
            data = sender.data_to_send()
            said[sender] += data
            receiver.receive_data(data) if data else None
    return said[client], said[server]


def from_servers() -> list[bytes]:
    """What our client hears."""
    return [_said("client", "server")[1], *_plaintext(of_servers())]


def from_clients() -> list[bytes]:
    """What our server hears."""
    return [_said("client", "server")[0], *_plaintext(of_clients())]


def from_psk_servers() -> list[bytes]:
    """What our client with pre-shared keys hears."""
    return [_said("psk_client", "psk_server")[1], *_plaintext(of_psk_servers())]


def from_psk_clients() -> list[bytes]:
    """What our server with pre-shared keys hears."""
    return [_said("psk_client", "psk_server")[0], *_plaintext(of_psk_clients())]


def _plaintext(inputs: Iterable[bytes]) -> list[bytes]:
    """The records up to the first that would be protected."""
    return [
        b"".join(record(kind, fragment, version) for kind, version, fragment in list(records(data))[:3])
        for data in inputs
    ]


# Under the keys


def _finished(suite: int) -> bytes:
    size = HASHES[SUITES_BY_NUMBER[suite].hash_name].digest_size
    return message(MessageType.FINISHED, bytes(size))


def _flight(*parts: bytes) -> bytes:
    """Each message in a record of its own."""
    return b"".join(record(HANDSHAKE, part) for part in parts)


def _hello(role: str, suite: int, extensions: Sequence[Extension], *, retry: bool = False) -> bytes:
    """A server's hello to what our client says in that role."""
    client = messages.read_client_hello(engine(role).data_to_send()[5:])
    return messages.ServerHello(
        random=messages.HELLO_RETRY_RANDOM if retry else b"S" * 32,
        session_id=client.session_id,
        cipher_suite=suite,
        extensions=[(Type.SUPPORTED_VERSIONS, b"\x03\x04"), *extensions],
    ).write()


def _share(group: int) -> Extension:
    return Type.KEY_SHARE, messages.key_share_entry(group, own_share(group)[1])


def _asks_for(group: int) -> Extension:
    return Type.KEY_SHARE, group.to_bytes(2)


def _long(message_type: int) -> bytes:
    """A message of 128 KiB, about the longest that is taken, and a second one."""
    header = record(HANDSHAKE, bytes([message_type]) + b"\x02\0\0")
    return (header + record(Extra.LONG, b"\x16\x0e\0") * 8) * 2


def of_servers() -> list[bytes]:
    """Servers: in order, with a retry, in one record, in padded pieces, with an alert, too long."""
    certificate = messages.certificate(SERVER.chain)
    request = messages.certificate_request([messages.signature_algorithms(_ED25519, 0x0403, 0x0804)])
    spoken = messages.encrypted_extensions([messages.alpn(b"sunrpc")])
    plain = _hello("client", _AES_128, [_share(_X25519)])
    long = _hello("client", _AES_256, [_share(_P256)])
    retry = _hello("client", _CHACHA, [_asks_for(_P384), (Type.COOKIE, b"\0\x02ab")], retry=True)
    second = _hello("client", _CHACHA, [_share(_P384)])
    together = spoken + request + certificate + _VERIFY + _finished(_AES_256)
    return [
        _flight(plain)
        + _CCS
        + _flight(messages.encrypted_extensions(), certificate, _VERIFY, _finished(_AES_128)),
        _flight(retry) + _CCS + _flight(second, spoken, request, certificate, _VERIFY, _finished(_CHACHA)),
        _flight(long) + _CCS + record(HANDSHAKE, together),
        _flight(long)
        + _CCS
        + b"".join(_padded(together[at : at + 300]) for at in range(0, len(together), 300)),
        _flight(plain, messages.encrypted_extensions()) + record(ALERT, b"\x02\x28"),
        _flight(plain, messages.encrypted_extensions()) + _long(MessageType.CERTIFICATE),
    ]


def _padded(fragment: bytes) -> bytes:
    return record(Extra.INNER, fragment + bytes([HANDSHAKE, 0, 0, 0]))


def _offer(*suites: int, extensions: Sequence[Extension]) -> bytes:
    groups = [messages.supported_groups(_X25519, _P256, _P384)] if Type.KEY_SHARE in dict(extensions) else []
    return messages.ClientHello(
        random=b"C" * 32,
        session_id=b"I" * 32,
        cipher_suites=list(suites),
        extensions=[
            messages.server_name(SERVER_NAME.encode()),
            messages.client_versions(0x0304),
            *groups,
            *extensions,
        ],
    ).write()


def _shares(*groups: int) -> Extension:
    return messages.client_shares(*((group, own_share(group)[1]) for group in groups))


def _cookie(role: str, hello: bytes) -> Extension:
    """The cookie of the HelloRetryRequest that a hello gets; the same in every run."""
    server = Answering(engine(role))
    server.receive_data(record(HANDSHAKE, _bound(role, hello)))
    _, _, retry = next(records(server.data_to_send()))
    return Type.COOKIE, dict(messages.read_server_hello(retry).extensions)[Type.COOKIE]


def _bound(role: str, hello: bytes) -> bytes:
    """The hello with its binders, as the peer sends it."""
    peer = ClientPeer(engine(role))
    peer.play(record(HANDSHAKE, hello))
    return peer.sent[5:]


def of_clients() -> list[bytes]:
    """Clients: without and with a certificate, with a retry, in one record, with an alert, too long."""
    schemes = messages.signature_algorithms(_ED25519, 0x0403, 0x0804)
    hello = _offer(_AES_128, extensions=[schemes, messages.alpn(b"sunrpc"), _shares(_X25519)])
    shareless = _offer(_AES_256, extensions=[schemes, _shares()])
    second = _offer(_AES_256, extensions=[schemes, _shares(_X25519), _cookie("server", shareless)])
    two = _offer(_AES_128, extensions=[schemes, _shares(_X25519, _P256)])
    none, chain = messages.certificate(()), messages.certificate(CLIENT.chain)
    return [
        _flight(hello) + _CCS + _flight(none, _finished(_AES_128)),
        _flight(hello) + _CCS + _flight(chain, _VERIFY, _finished(_AES_128)),
        _flight(shareless) + _CCS + _flight(second, chain, _VERIFY, _finished(_AES_256)),
        _flight(hello) + _CCS + record(HANDSHAKE, chain + _VERIFY + _finished(_AES_128)),
        _flight(two) + _padded(none + _finished(_AES_128)),
        _flight(hello, none) + record(ALERT, b"\x02\x2a"),
        _long(MessageType.CLIENT_HELLO),
    ]


def of_psk_servers() -> list[bytes]:
    """Servers with a key: the first, the second, without key exchange, after a retry."""
    first, second = (Type.PRE_SHARED_KEY, b"\0\0"), (Type.PRE_SHARED_KEY, b"\0\x01")
    spoken = messages.encrypted_extensions()
    return [
        _flight(_hello("psk_client", _AES_128, [_share(_X25519), first]))
        + _CCS
        + _flight(spoken, _finished(_AES_128)),
        _flight(_hello("psk_client", _AES_256, [_share(_X25519), second]))
        + record(HANDSHAKE, spoken + _finished(_AES_256)),
        _flight(_hello("psk_client", _AES_128, [first])) + _padded(spoken + _finished(_AES_128)),
        _flight(
            _hello("psk_client", _AES_256, [_asks_for(_P256)], retry=True),
            _hello("psk_client", _AES_256, [_share(_P256), first]),
            spoken,
            _finished(_AES_256),
        ),
    ]


def _psk_offer(*keys: int) -> Extension:
    names = [KEYS[index].identity for index in keys]
    blank = [bytes(HASHES[KEYS[index].hash_name].digest_size) for index in keys]
    return messages.psk_offer(names, blank)


def of_psk_clients() -> list[bytes]:
    """Clients with keys: both, one, without key exchange, after a retry, with early data, with an unknown one."""
    modes: Extension = (Type.PSK_KEY_EXCHANGE_MODES, b"\x01\x01")
    alone: Extension = (Type.PSK_KEY_EXCHANGE_MODES, b"\x01\x00")
    shares = _shares(_X25519)
    early: Extension = (Type.EARLY_DATA, b"")
    shareless = _offer(_AES_128, extensions=[modes, _shares(), _psk_offer(0)])
    cookie = _cookie("psk_server", shareless)
    stranger = messages.psk_offer([b"stranger", KEYS[0].identity], [bytes(32), bytes(32)])
    return [
        _flight(_offer(_AES_256, _AES_128, extensions=[modes, shares, _psk_offer(0, 1)]))
        + _CCS
        + _flight(_finished(_AES_128)),
        _flight(_offer(_AES_256, extensions=[modes, shares, _psk_offer(1)])) + _flight(_finished(_AES_256)),
        _flight(_offer(_AES_128, extensions=[alone, _psk_offer(0)])) + _padded(_finished(_AES_128)),
        _flight(
            shareless,
            _offer(_AES_128, extensions=[modes, shares, cookie, _psk_offer(0)]),
            _finished(_AES_128),
        ),
        _flight(_offer(_AES_128, extensions=[modes, shares, early, _psk_offer(0)]))
        + record(Extra.RAW, record(APPLICATION_DATA, bytes(40)))
        + _flight(_finished(_AES_128)),
        _flight(_offer(_AES_128, extensions=[modes, shares, stranger]), _finished(_AES_128)),
    ]
