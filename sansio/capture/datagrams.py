"""What a recorded netlink datagram says: messages of the family `handshake`, and their answers, as facts for people.

As in `messages`, an onlooker's view: nothing is raised, what is malformed is shown as such.  The number of the family
is not recorded, and not needed: a transcript holds datagrams of that family alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from ..netlink.codec import (
    Message,
    NetlinkDecodeError,
    decode_accept_reply_untrusted,
    decode_done_untrusted,
    decode_error_untrusted,
    decode_handler_class_untrusted,
    split_genl_untrusted,
    split_messages_untrusted,
)
from ..netlink.events import AcceptReply, CertificateSerials
from ..netlink.spec import Auth, Command, HandlerClass, MessageType, NlmsgType
from ..summary import status_name
from ..tls.certificates import printable
from .messages import Detail, Dissection, detail


def dissect_datagram_untrusted(data: bytes, *, outgoing: bool) -> tuple[Dissection, ...]:
    """Take a datagram apart.

    Args:
        data: A datagram, any bytes.  Raises nothing.
        outgoing: Did it go to the kernel?
    """
    return tuple(_dissections(data, outgoing=outgoing))


def _dissections(data: bytes, *, outgoing: bool) -> Iterator[Dissection]:
    try:
        for message in split_messages_untrusted(data):
            yield _message(message, outgoing=outgoing)
    except NetlinkDecodeError as error:
        yield Dissection(name="netlink message", bad=True, defect=str(error))


def _message(message: Message, *, outgoing: bool) -> Dissection:
    if message.message_type == NlmsgType.ERROR:
        return _answer(message)
    command, chain = split_genl_untrusted(message.payload)
    reader = _READERS.get((command, outgoing))
    return Dissection(name=f"netlink command {command}") if reader is None else reader(chain)


def _answer(message: Message) -> Dissection:
    answer = decode_error_untrusted(message)
    said = (detail("the kernel says", [answer.text]),) if answer.text else ()
    if not answer.error:
        return Dissection(name="acknowledged", details=said)
    return Dissection(name=f"refused: {status_name(answer.error)}", details=said, bad=True)


def _ready(chain: bytes) -> Dissection:
    return Dissection(name="READY", details=(_handler_class(chain),))


def _accept(chain: bytes) -> Dissection:
    return Dissection(name="ACCEPT", details=(_handler_class(chain),))


def _handler_class(chain: bytes) -> Detail:
    return detail("HANDLER_CLASS", [_name(HandlerClass, decode_handler_class_untrusted(chain))])


def _accept_reply(chain: bytes) -> Dissection:
    reply = decode_accept_reply_untrusted(chain)
    kind = f"{_name(MessageType, reply.message_type)}, {_name(Auth, reply.auth_mode)}"
    return Dissection(
        name=f"request ({kind})",
        details=tuple(detail(name, values) for name, values in _reply_attributes(reply) if values),
        bad=reply.defect is not None,
        defect=reply.defect,
    )


def _reply_attributes(reply: AcceptReply) -> Iterator[tuple[str, list[str]]]:
    """Its attributes, the telling ones first, without those that its name has."""
    yield "PEERNAME", _present(reply.peername, _text)
    yield "TIMEOUT", _present(reply.timeout_ms, lambda ms: f"{ms} ms")
    yield "KEYRING", _present(reply.keyring, lambda serial: f"keyring {serial_text(serial)}")
    yield "PEER_IDENTITY", [f"key {serial_text(serial)}" for serial in reply.peer_identities]
    yield "CERTIFICATE", [_certificate(pair) for pair in reply.certificates]
    yield "SOCKFD", _present(reply.sockfd, descriptor_text)
    yield "unknown attributes", [f"type {number}" for number, _ in reply.unknown]


def _present(value: object, text: Callable[..., str]) -> list[str]:
    return [] if value is None else [text(value)]


def _certificate(pair: CertificateSerials) -> str:
    certificate, private_key = (
        0 if serial is None else serial for serial in (pair.certificate, pair.private_key)
    )
    return f"certificate {serial_text(certificate)} with key {serial_text(private_key)}"


def _done(chain: bytes) -> Dissection:
    done = decode_done_untrusted(chain)
    status = "without a status" if done.status is None else status_name(done.status)
    values = {
        "REMOTE_AUTH": [f"key {serial_text(serial)}" for serial in done.remote_auth],
        "SOCKFD": _present(done.sockfd, descriptor_text),
    }
    return Dissection(
        name=f"DONE {status}",
        details=tuple(detail(name, shown) for name, shown in values.items() if shown),
        bad=done.status != 0,
    )


_READERS: Final[Mapping[tuple[int, bool], Callable[[bytes], Dissection]]] = {
    (Command.READY, False): _ready,
    (Command.ACCEPT, True): _accept,
    (Command.ACCEPT, False): _accept_reply,
    (Command.DONE, True): _done,
}


def serial_text(serial: int) -> str:
    """Write a key's serial as /proc/keys does."""
    return f"{serial & 0xFFFFFFFF:#x}"


def descriptor_text(descriptor: int) -> str:
    """Write a descriptor."""
    return f"fd {descriptor}"


def _name(kind: type[HandlerClass | MessageType | Auth], number: int | None) -> str:
    if number is None:
        return "none"
    try:
        return kind(number).name
    except ValueError:
        return str(number)


def _text(text: str) -> str:
    return printable(text.encode("utf-8", "backslashreplace").decode())
