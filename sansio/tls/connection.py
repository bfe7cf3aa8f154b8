"""tlslite-ng at work: with `messages` and `settings`, all that touches it.

tlslite-ng's TLSConnection holds the handshake's state machine and builds the messages; its generators say 0 when
they want to read.  `Connection` takes away everything below and beside that:

* records, reassembly, ChangeCipherSpec and alerts are `records`' (`_getMsg` and `_sendMsg` are the only ways in
  and out);
* every message that comes in is checked by `checks` before the state machine sees it, and every message that goes
  out is put in order (`_put_in_order`);
* keys, signatures, HKDF and the transcript are `primitives`'.  Where tlslite-ng calls such a function by its global
  name, the method is rebuilt with other globals (`_rebound`), so that tlslite-ng itself stays as it is for
  everybody else in the process;
* choices (suite, certificate, scheme) are ours, and no certificate is ever parsed by tlslite-ng;
* what a kernel's agent never needs is not computed: exporter and resumption secrets, the record of a session, the
  suites of older versions.

Its own socket code, record layer, cipher, key and certificate classes never run.
"""

from collections.abc import Generator, Iterable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, cast

from tlslite import tlsconnection, tlsrecordlayer
from tlslite.constants import CertificateType, CipherSuite, HashAlgorithm, SignatureScheme
from tlslite.constants import ContentType as TlsliteContentType
from tlslite.errors import TLSDecryptionFailed, TLSIllegalParameterException
from tlslite.extensions import TLSExtension
from tlslite.messages import (
    Certificate,
    CertificateRequest,
    CertificateVerify,
    ClientHello,
    EncryptedExtensions,
    Finished,
    KeyShareEntry,
    ServerHello,
)
from tlslite.tlsconnection import TLSConnection
from tlslite.tlsrecordlayer import TLSRecordLayer
from tlslite.utils.codec import Writer

from ..ktls import KernelSecrets
from ..status import Alert, Cause
from ..steps import Trace
from . import checks
from .adapters import (
    CertificateBytes,
    KeyExchange,
    NoBinders,
    NoSocket,
    OwnKey,
    PeerKey,
    RecordProtection,
    VerifyData,
    traced,
)
from .errors import refused, violation
from .extensions import ExtensionType, is_hello_retry
from .hybrid import EXCHANGES_BY_NAME, EXCHANGES_BY_NUMBER, HYBRIDS_BY_NUMBER, Encapsulate
from .messages import (
    ORDERED_SIGNATURE_SCHEMES,
    PARSERS,
    CertificateMessage,
    Chain,
    client_hello,
    parse_untrusted,
    rebound,
    scheme_number,
    scheme_pair,
)
from .parameters import (
    ClientParameters,
    ClientPskParameters,
    Entropy,
    HandshakeCompleted,
    Identity,
    Parameters,
    PeerCertificate,
    PreSharedKey,
    PublicKey,
    ServerParameters,
    ServerPskParameters,
    key_kind,
)
from .primitives import (
    SCHEMES_BY_NUMBER,
    SUITES_BY_NAME,
    SUITES_BY_NUMBER,
    Transcript,
    derive_secret,
    hkdf_expand_label,
    hmac_digest,
    signed_content,
)
from .psk import NO_KEY, KeyChoice, OfferedKeys, suites_for
from .records import ContentType, HandshakeType, RecordReader, RecordWriter
from .settings import Settings, psk_config, settings_for, settings_with

Steps = Generator[Any, None, None]
"""What tlslite-ng's generators yield: 0 for more input, and at their end the message or the result."""

_NO_ALPN: Final = [bytearray(b"\x00")]
"""For tlslite-ng's server, which fails with TypeError on a client's ALPN when it has none of its own; what is
spoken is checked here."""


# Primitives under the names that tlslite-ng uses

_entropy: ContextVar[Entropy] = ContextVar("_entropy")


def _get_random_bytes(count: int) -> bytearray:
    return bytearray(_entropy.get()(count))


class _NoSuites(CipherSuite):
    """The suites of older versions, which tlslite-ng's server goes through before it lets us choose."""

    @classmethod
    def _filterSuites(cls, *_arguments: object) -> list[int]:
        return []


class _SignatureScheme(SignatureScheme):
    """Names looked up once; tlslite-ng searches its classes for each.  Schemes are checked before that."""

    toRepr = staticmethod(lru_cache(maxsize=64)(SignatureScheme.toRepr))


class _HashAlgorithm(HashAlgorithm):
    toRepr = staticmethod(lru_cache(maxsize=16)(HashAlgorithm.toRepr))


class _SignedContent:
    """For tlslite-ng's KeyExchange, of which TLS 1.3 needs one function."""

    @staticmethod
    def calcVerifyBytes(
        _version: object,
        transcript: Transcript,
        scheme: tuple[int, int],
        _premaster: object,
        _client_random: object,
        _server_random: object,
        hash_name: str,
        role: bytes,
    ) -> bytes:
        used = SCHEMES_BY_NUMBER[scheme_number(scheme)]
        return signed_content(transcript, hash_name, role=role.decode(), scheme=used)


class _NoSession:
    """For tlslite-ng's record of a handshake, which nobody reads here."""

    def create(self, *_arguments: object, **_more: object) -> None:
        pass


_UNUSED_SECRETS: Final = frozenset((b"exp master", b"res master"))
"""Labels of secrets that tlslite-ng derives and nothing in the kernel's handshake needs: exporter and resumption."""


def _derive_secret(secret: bytes, label: bytearray, transcript: Transcript | None, hash_name: str) -> bytes:
    name = bytes(label)
    return b"" if name in _UNUSED_SECRETS else derive_secret(secret, name, transcript, hash_name)


_GLOBALS: Final = {
    **vars(tlsconnection),
    "CipherSuite": _NoSuites,
    "HandshakeHelpers": NoBinders,
    "HashAlgorithm": _HashAlgorithm,
    "KeyExchange": _SignedContent,
    "SignatureScheme": _SignatureScheme,
    "HKDF_expand_label": hkdf_expand_label,
    "HandshakeHashes": Transcript,
    "Session": _NoSession,
    "derive_secret": _derive_secret,
    "getRandomBytes": _get_random_bytes,
    "secureHMAC": hmac_digest,
}


def _rebound(method: Any) -> Any:
    """The same method, but with our primitives behind the global names it uses."""
    return rebound(method, _GLOBALS)


def _own_chain(identity: Identity) -> Chain:
    chain = [CertificateBytes(der) for der in identity.chain]
    return Chain(chain, identity.key_kind)


class _NoDefragmenter:
    """For tlslite-ng's reassembly of messages, which `records` does."""

    def add_static_size(self, *_arguments: object) -> None:
        pass

    add_dynamic_size = add_static_size
    clear_buffers = add_static_size


class _RecordLayer(TLSRecordLayer):
    """Begins without tlslite-ng's buffers, ciphers and seven hashes."""

    __init__ = rebound(
        TLSRecordLayer.__init__,
        {
            **vars(tlsrecordlayer),
            "BufferedSocket": lambda socket: socket,
            "Defragmenter": _NoDefragmenter,
            "HandshakeHashes": Transcript,
            "RecordLayer": lambda _socket: None,
        },
    )


_init_connection: Final = rebound(TLSConnection.__init__, {**_GLOBALS, "TLSRecordLayer": _RecordLayer})


# The connection


class Connection(TLSConnection):
    """One handshake, either role, as a generator in `steps` that wants input whenever it yields."""

    def __init__(
        self, parameters: Parameters, entropy: Entropy, trace: Trace, encapsulate: Encapsulate
    ) -> None:
        _init_connection(self, NoSocket())
        is_client = isinstance(parameters, ClientParameters | ClientPskParameters)
        self._recordLayer = RecordProtection(is_client=is_client, trace=trace)
        self.reader: RecordReader = self._recordLayer.reader
        self.writer: RecordWriter = self._recordLayer.writer
        self._parameters = parameters
        self._generate_entropy = entropy
        self._encapsulate = encapsulate
        self._trace = trace
        self._client_hello: Any = None
        self._server_hello: Any = None
        self._retried = False
        self._server_name: str | None = None
        self._alpn: bytes | None = None
        self._peer: PeerCertificate | None = None
        self._peer_chain: Chain | None = None
        self._peer_key_kind = ""
        self._own_chain: Chain | None = None
        self._psk: PreSharedKey | None = None
        self._offered_keys: OfferedKeys | None = None
        self._key_choice: KeyChoice | None = None
        self._steps = self._role_steps(parameters)

    # Driving

    def step(self) -> bool:
        """Run until more input is wanted.

        Returns:
            True when the handshake is complete.

        Raises:
            HandshakeError: The handshake failed.
        """
        token = _entropy.set(self._generate_entropy)
        try:
            next(self._steps)
        except StopIteration:
            return True
        except TLSDecryptionFailed as error:
            raise violation(Alert.DECRYPT_ERROR, str(error)) from error
        except TLSIllegalParameterException as error:
            raise violation(Alert.ILLEGAL_PARAMETER, str(error)) from error
        finally:
            _entropy.reset(token)
        return False

    def requested_keys(self) -> tuple[bytes, ...] | None:
        """The identities for which `provide_keys` is to be called; None if the handshake does not wait for it."""
        choice = self._key_choice
        return choice.requested if choice is not None and choice.provided is None else None

    def provide_keys(self, keys: tuple[PreSharedKey, ...]) -> None:
        """Answer `requested_keys`; `step` goes on then."""
        if self._key_choice is None:
            raise AssertionError("only a server with pre-shared keys asks for them")
        self._key_choice.provided = keys

    def _role_steps(self, parameters: Parameters) -> Steps:
        match parameters:
            case ClientParameters():
                return self._client_steps(parameters)
            case ClientPskParameters():
                return self._client_psk_steps(parameters)
            case ServerParameters():
                return self._server_steps(parameters)
            case ServerPskParameters():
                return self._server_psk_steps(parameters)

    def _client_steps(self, parameters: ClientParameters) -> Steps:
        chain, key = self._presented(parameters.identity)
        self._own_chain = chain
        self._server_name = parameters.server_name
        self._suites = parameters.cipher_suites
        settings = settings_for(self._suites, parameters.groups, parameters.key_shares)
        return self._as_client(chain, key, settings, parameters.alpn)

    def _client_psk_steps(self, parameters: ClientPskParameters) -> Steps:
        self._server_name = parameters.server_name
        self._suites = suites_for(parameters.cipher_suites, parameters.keys)
        self._offered_keys = OfferedKeys(parameters.keys, allow_psk_ke=parameters.allow_psk_ke)
        self._own_settings = settings_with(
            settings_for(self._suites, parameters.groups, parameters.key_shares),
            parameters.keys,
            allow_psk_ke=parameters.allow_psk_ke,
        )
        return self._as_client(None, None, self._own_settings, parameters.alpn)

    def _as_client(
        self, chain: Chain | None, key: OwnKey | None, settings: Settings, alpn: Sequence[bytes]
    ) -> Steps:
        names = [bytearray(name) for name in alpn] or None
        steps = self.handshakeClientCert(chain, key, settings=settings, async_=True, alpn=names)
        return cast("Steps", steps)

    def _server_steps(self, parameters: ServerParameters) -> Steps:
        self._suites = parameters.cipher_suites
        settings = settings_for(self._suites, parameters.groups, parameters.groups)
        wants_certificate = parameters.verifier is not None
        return self._as_server(
            parameters.identities[0], settings, parameters.alpn, wants_certificate=wants_certificate
        )

    def _server_psk_steps(self, parameters: ServerPskParameters) -> Steps:
        self._key_choice = KeyChoice()
        self._suites = parameters.cipher_suites
        settings = settings_with(
            settings_for(self._suites, parameters.groups, parameters.groups),
            [NO_KEY],
            allow_psk_ke=parameters.allow_psk_ke,
        )
        return self._as_server(None, settings, parameters.alpn, wants_certificate=False)

    def _as_server(
        self,
        identity: Identity | None,
        settings: Settings,
        alpn: Sequence[bytes],
        *,
        wants_certificate: bool,
    ) -> Steps:
        chain, key = self._presented(identity)
        names = [bytearray(name) for name in alpn] or _NO_ALPN
        steps = self.handshakeServerAsync(
            certChain=chain, privateKey=key, reqCert=wants_certificate, settings=settings, alpn=names
        )
        return cast("Steps", steps)

    def _presented(self, identity: Identity | None) -> tuple[Chain | None, OwnKey | None]:
        return (None, None) if identity is None else (_own_chain(identity), OwnKey(identity, self._trace))

    # Results

    def result(self) -> HandshakeCompleted:
        """What was negotiated; only after `step` returned True."""
        extension = self._server_hello.getExtension(ExtensionType.KEY_SHARE)
        return HandshakeCompleted(
            cipher_suite=SUITES_BY_NUMBER[self._recordLayer.suite_number].name,
            group=None if extension is None else EXCHANGES_BY_NUMBER[extension.server_share.group].name,
            alpn=self._alpn,
            peer=self._peer,
            server_name=self._server_name,
            psk_identity=None if self._psk is None else self._psk.identity,
        )

    def take_secrets(self) -> KernelSecrets:
        """The application traffic keys, which are forgotten here; only after `step` returned True."""
        tx, rx = self.writer.key, self.reader.key
        self.writer.key = self.reader.key = None
        if tx is None or rx is None:
            raise AssertionError("a completed handshake has keys")
        return KernelSecrets(version=0x0304, cipher=tx.suite.ktls, tx=tx.traffic_key(), rx=rx.traffic_key())

    # tlslite-ng's methods, with our primitives

    _clientGetServerHello = _rebound(TLSConnection._clientGetServerHello)
    _clientTLS13Handshake = _rebound(TLSConnection._clientTLS13Handshake)
    _serverGetClientHello = _rebound(TLSConnection._serverGetClientHello)
    _serverTLS13Handshake = _rebound(TLSConnection._serverTLS13Handshake)

    # tlslite-ng's methods, replaced

    def _clientSendClientHello(self, settings: Settings, *_arguments: object) -> Steps:
        session_id = _get_random_bytes(32)
        groups = [EXCHANGES_BY_NAME[name].number for name in settings.keyShares]
        shares = [self._genKeyShareEntry(group, checks.TLS_1_3) for group in groups]
        hello = client_hello(
            session_id=session_id,
            suites=[SUITES_BY_NAME[name].number for name in self._suites],
            server_name=self._server_name,
            alpn=tuple(self._parameters.alpn),
            groups=tuple(dict.fromkeys((*settings.keyShares, *settings.eccCurves))),
            shares=shares,
            psk_modes=() if self._offered_keys is None else tuple(settings.psk_modes),
            psks=settings.pskConfigs,
        )
        hello.random = _get_random_bytes(32)
        self._sendMsg(hello)
        yield hello

    def _serverSendTickets(self, settings: object) -> Iterable[int]:
        return ()

    def _handshakeStart(self, client: bool) -> None:
        self._handshake_hash = Transcript()

    def _handshakeWrapperAsync(self, handshaker: Steps, checker: object) -> Steps:
        yield from handshaker  # errors become alerts in the engine, while the keys are still there

    def _shutdown(self, resumable: bool) -> None:
        pass

    def _sendError(self, alertDescription: int, errorStr: str | None = None) -> Any:
        alert = Alert(alertDescription)
        reason = errorStr or f"alert {alert.name.lower()}"
        if alert is Alert.HANDSHAKE_FAILURE:
            raise refused(Cause.NO_COMMON_PARAMETERS, reason)
        raise violation(alert, reason)

    @staticmethod
    def _getKEX(group: int, version: tuple[int, int]) -> KeyExchange:
        return KeyExchange(EXCHANGES_BY_NUMBER[group])

    def _genKeyShareEntry(self, group: int, version: tuple[int, int]) -> Any:
        exchange = EXCHANGES_BY_NUMBER[group]
        private: Any = exchange.generate(self._generate_entropy)
        return KeyShareEntry().create(group, bytearray(exchange.public_value(private)), private)

    def _KEMEncaps(self, group: int, public: bytearray) -> tuple[bytes, Any]:
        secret, share = HYBRIDS_BY_NUMBER[group].encapsulate_untrusted(
            bytes(public), self._generate_entropy, traced(self._encapsulate, self._trace)
        )
        return secret, KeyShareEntry().create(group, bytearray(share), None)

    @staticmethod
    def _sigHashesToList(
        settings: object,
        privateKey: object = None,
        certList: Chain | None = None,
        version: object = None,
    ) -> list[tuple[int, int]]:
        if certList is None:
            return ORDERED_SIGNATURE_SCHEMES
        return [scheme_pair(number) for number in checks.fitting_schemes(certList.kind, SCHEMES_BY_NUMBER)]

    def _create_cert_msg(self, *arguments: Any, version: object = None) -> Any:
        chain: Chain | None = arguments[3]
        message = Certificate(CertificateType.x509, checks.TLS_1_3)
        return message.create(chain or None, bytearray())

    def _clientGetKeyFromChain(self, certificate: Any, settings: object, tack_ext: object = None) -> Steps:
        chain = self._peer_chain
        if chain is None:
            raise AssertionError("the chain was verified when it came in")
        yield chain.getEndEntityPublicKey(), chain, None

    def _server_select_certificate(
        self,
        settings: Settings,
        client_hello: Any,
        cipher_suites: object,
        cert_chain: object,
        private_key: object,
        version: object,
    ) -> tuple[int, str | None, Chain | None, OwnKey | None]:
        if self._psk is not None:
            settings.pskConfigs = [psk_config(self._psk)]
            return self._choose_suite(client_hello, suites_for(self._suites, (self._psk,))), None, None, None
        parameters = cast("ServerParameters", self._parameters)
        suite = self._choose_suite(client_hello, self._suites)
        checks.check_offer_to_certificates(client_hello)
        offer = client_hello.getExtension(ExtensionType.SIGNATURE_ALGORITHMS)
        accepted = [scheme_number(scheme) for scheme in offer.sigalgs]
        identity, scheme = checks.choose_identity(parameters.identities, self._server_name, accepted)
        return suite, scheme.name, *self._presented(identity)

    @staticmethod
    def _choose_suite(client_hello: Any, names: Sequence[str]) -> int:
        ours = [SUITES_BY_NAME[name].number for name in names]
        return checks.choose_suite(ours, client_hello.cipher_suites)

    # Out

    def _sendMsg(
        self,
        msg: Any,
        randomizeFirstBlock: bool = True,
        update_hashes: bool = True,
    ) -> Iterable[int]:
        self._put_in_order(msg)
        data = bytes(msg.write())
        if msg.contentType == TlsliteContentType.handshake and update_hashes:
            self._handshake_hash.update(data)
        self._write(msg.contentType, data)
        return ()

    def _queue_message(self, msg: Any) -> None:
        self._put_in_order(msg)
        super()._queue_message(msg)

    def _write(self, content_type: int, data: bytes) -> None:
        if content_type == ContentType.CHANGE_CIPHER_SPEC:
            self._ccs_sent = True
        elif self._recordLayer.client and self.writer.key is not None and not self._ccs_sent:
            # RFC 8446, D.4: before the client's second flight, whatever that begins with.
            self._ccs_sent = True
            self.writer.write(ContentType.CHANGE_CIPHER_SPEC, b"\x01")
        self.writer.write(content_type, data)

    def send_alert(self, alert: Alert) -> None:
        """Send a fatal alert under the current key; close_notify and user_canceled are warnings by their nature."""
        level = 1 if alert in (Alert.CLOSE_NOTIFY, Alert.USER_CANCELED) else 2
        self._write(ContentType.ALERT, bytes([level, alert]))

    def _put_in_order(self, message: Any) -> None:
        """Mend an outgoing message, and remember what an answer is checked against."""
        if isinstance(message, ClientHello):
            if self._offered_keys is not None:
                self._offered_keys.bind(message, self._handshake_hash, self._retry_hash())
            self._client_hello = message
            self._recordLayer.client_random = bytes(message.random)
            self.reader.hello_sent = True
        elif isinstance(message, ServerHello) and not is_hello_retry(message):
            self._server_hello = message
        elif isinstance(message, CertificateRequest):
            self._put_certificate_request_in_order(message)
        elif isinstance(message, EncryptedExtensions):
            self._note_alpn(message)

    def _retry_hash(self) -> str | None:
        return SUITES_BY_NUMBER[self._server_hello.cipher_suite].hash_name if self._retried else None

    def _put_certificate_request_in_order(self, request: Any) -> None:
        parameters = cast("ServerParameters", self._parameters)
        request.extensions = [
            extension
            for extension in request.extensions
            if extension.extType != ExtensionType.COMPRESS_CERTIFICATE
        ]
        if parameters.certificate_authorities:
            names = Writer()
            for name in parameters.certificate_authorities:
                names.addVarSeq(bytearray(name), 1, 2)
            payload = Writer()
            payload.addVarSeq(names.bytes, 1, 2)
            authorities = TLSExtension(extType=ExtensionType.CERTIFICATE_AUTHORITIES)
            request.extensions.append(authorities.create(payload.bytes))

    def _note_alpn(self, message: Any) -> None:
        extension = message.getExtension(ExtensionType.ALPN)
        self._alpn = bytes(extension.protocol_names[0]) if extension is not None else None

    # In

    def _getMsg(self, expectedType: object, secondaryType: Any = None, constructorType: Any = None) -> Steps:
        wanted = secondaryType if isinstance(secondaryType, tuple) else (secondaryType,)
        # Compressed certificates are never offered, but tlslite-ng would take them.
        expected = [number for number in wanted if number in PARSERS]
        while (message := self.reader.next_message_untrusted(expected)) is None:
            yield 0
        parsed = parse_untrusted(message, constructorType)
        self._check(parsed)
        if self._key_choice is not None and message.message_type == HandshakeType.CLIENT_HELLO:
            yield from self._choose_key(self._key_choice, parsed, message.data)
        self._handshake_hash.update(message.data)
        yield parsed

    def _choose_key(self, choice: KeyChoice, hello: Any, data: bytes) -> Steps:
        """Wait for the keys that the client offers, and choose one; a second ClientHello finds them there."""
        choice.request_untrusted(hello)
        while choice.provided is None:
            yield 0
        self._psk = choice.choose(hello, data, self._handshake_hash, self._suites)

    def _check(self, message: Any) -> None:
        match message:
            case ClientHello():
                self._check_client_hello(message)
            case ServerHello():
                self._check_server_hello(message)
            case EncryptedExtensions():
                checks.check_encrypted_extensions(message, self._client_hello)
                self._note_alpn(message)
            case CertificateRequest():
                checks.check_certificate_request(message)
                self._choose_own_certificate(message)
            case CertificateMessage():
                self._check_certificate(message)
            case CertificateVerify():
                checks.check_certificate_verify(
                    scheme_number(message.signatureAlgorithm), self._peer_key_kind
                )
            case Finished():
                message.verify_data = VerifyData(message.verify_data)

    def _check_server_hello(self, hello: Any) -> None:
        checks.check_server_hello(
            hello, self._client_hello, retried=self._retried, psk=self._offered_keys is not None
        )
        retry = is_hello_retry(hello)
        if self._offered_keys is not None and not retry:
            self._psk = self._offered_keys.judge(hello)
            # tlslite-ng looks the secret up by the identity, which several keys may have.
            self._own_settings.pskConfigs = [psk_config(self._psk)]
        self._retried = self._retried or retry
        self._server_hello = hello

    def _check_client_hello(self, hello: Any) -> None:
        checks.check_client_hello(hello)
        checks.check_alpn_offer(hello, self._parameters.alpn)
        name = checks.server_name_untrusted(hello.getExtension(ExtensionType.SERVER_NAME))
        if self._client_hello is not None:
            checks.check_second_client_hello(hello, self._client_hello, same_name=name == self._server_name)
        if checks.check_early_data_offer(hello, retried=self._client_hello is not None):
            self.reader.skip_early_data()
        self._server_name = name
        self._client_hello = hello
        self._recordLayer.client_random = bytes(hello.random)
        checks.hide_what_was_checked(hello)

    def _choose_own_certificate(self, request: Any) -> None:
        """Present no certificate, rather than one whose signature the server can't check (RFC 8446, 4.4.2.3)."""
        chain = self._own_chain
        if chain is not None:
            accepted = [scheme_number(scheme) for scheme in request.supported_signature_algs]
            chain.usable = bool(checks.fitting_schemes(chain.kind, accepted))

    def _check_certificate(self, message: CertificateMessage) -> None:
        checks.check_certificate(message)
        chain = message.cert_chain
        if chain is None:
            self._check_absent_certificate()
            return
        verifier = cast("ClientParameters | ServerParameters", self._parameters).verifier
        if verifier is None:
            raise AssertionError("no certificate is asked for without a verifier")
        self._peer, leaf = verifier.verify_untrusted(message.chain)
        key = cast("PublicKey", leaf.public_key())
        self._peer_key_kind = chain.kind = key_kind(key, leaf)
        chain.x509List[0].publicKey = PeerKey(key)
        self._peer_chain = chain

    def _check_absent_certificate(self) -> None:
        if isinstance(self._parameters, ClientParameters):
            raise violation(Alert.DECODE_ERROR, "the server presented no certificate")
        if cast("ServerParameters", self._parameters).require_client_certificate:
            raise refused(
                Cause.NO_PEER_CERTIFICATE,
                "the client presented no certificate, and one is required; configure one on the client",
            )
