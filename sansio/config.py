r"""The agent's configuration: the text of a `tlshd.conf` in, frozen records out.

The format is GLib's key file: groups in brackets, `key=value` lines, `#` comments on lines of their own.  Keys of
a group that appears twice merge, and the last of equal keys wins.  Blanks around keys and values don't count
(`\s` writes one that does); `\s \n \t \r \\` are the escapes, and `\;` in a list.  Nothing is interpolated.

The standard library's configparser can't be made to conform: it takes an indented line for the continuation of
the one before (GLib: a line of its own), takes text behind a group's bracket, gives every group the keys of
[DEFAULT], and forgets on which line a value stood, so that no message could name it.  Hence the few lines here.

Reading happens in two steps: `_entries` knows the syntax and nothing of the meaning, `_Reader` the meaning.
What can't be understood is a `ConfigError`; what can be understood but has no effect is a `ConfigWarning`.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

MAX_CONFIG_LENGTH: Final = 256 * 1024
"""In characters: a hundred times what a file with every key takes; more is another file by mistake."""

MAX_WARNINGS: Final = 100
"""A file with more lines that mean nothing here is another file by mistake."""

MAX_DELAY_DONE: Final = 60
"""In seconds: no consumer waits as long, and a stopping agent sees each delay through."""

_ESCAPES: Final = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\", ";": ";"}
_ESCAPE: Final = re.compile(r"\\(.?)", re.DOTALL)
_LIST_ITEM: Final = re.compile(r"((?:[^;\\]|\\.)*)(?:;|$)", re.DOTALL)
_BLANK: Final = " \t\r\f\v"  # What g_ascii_isspace takes for one, less the line feed.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,9}")


class ConfigError(Exception):
    """The configuration can't be used; the message names the file, the line, and what is expected there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigWarning:
    """Something in the configuration that has no effect.

    Attributes:
        source: The file.
        line: The line's number, from 1.
        text: A sentence.
    """

    source: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugConfiguration:
    """[debug]: how much to log, 0 by default.

    Attributes:
        loglevel: Of the agent itself.
        tls: Of the TLS engine.
        nl: Of netlink.
        delay_done: Seconds to wait before each DONE, for tests of the kernel's consumers; up to `MAX_DELAY_DONE`.
    """

    loglevel: int = 0
    tls: int = 0
    nl: int = 0
    delay_done: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleConfiguration:
    """[authenticate.client] or [authenticate.server]: absolute paths of PEM files.

    Attributes:
        truststore: Trusted authorities; None means the system's.
        revocation_lists: Certificate revocation lists, also in DER; None means that nothing is revoked.
        certificate: The certificate chain, the leaf first; None if and only if `private_key` is None.
        private_key: The leaf's private key.
    """

    truststore: str | None = None
    revocation_lists: str | None = None
    certificate: str | None = None
    private_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything that a `tlshd.conf` can say.

    Attributes:
        debug: How much to log.
        keyrings: Names of keyrings to link at the start, besides those that are always tried.
        client: For handshakes as a TLS client.
        server: For handshakes as a TLS server.
    """

    debug: DebugConfiguration = field(default_factory=DebugConfiguration)
    keyrings: tuple[str, ...] = ()
    client: RoleConfiguration = field(default_factory=RoleConfiguration)
    server: RoleConfiguration = field(default_factory=RoleConfiguration)


_ROLE_KEYS: Final = (
    "x509.truststore",
    "x509.crl",
    "x509.certificate",
    "x509.private_key",
    "x509.pq.certificate",
    "x509.pq.private_key",
)
_KNOWN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "debug": ("loglevel", "tls", "nl", "delay_done"),
        "authenticate": ("keyrings",),
        "authenticate.client": _ROLE_KEYS,
        "authenticate.server": _ROLE_KEYS,
    }
)
_NOT_SUPPORTED: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(
        ("x509.pq.certificate", "x509.pq.private_key"),
        "is set, but this version presents and verifies no post-quantum (ML-DSA) certificates, and will not run as if it "
        "did. Remove the line; the one of x509.certificate is presented to every peer then",
    )
)


def parse_tlshd_conf(text: str, *, source: str) -> tuple[Configuration, list[ConfigWarning]]:
    """Read the text of a `tlshd.conf`.

    Args:
        text: The whole file.
        source: The file's name, for messages.

    Returns:
        The configuration, and what of the file has no effect, in the order of its lines.

    Raises:
        ConfigError: The text is too long, is no key file, means next to nothing, or gives a known key a value that can't
            be used.
    """
    if len(text) > MAX_CONFIG_LENGTH:
        raise ConfigError(
            f"{source} has {len(text)} characters; a configuration has at most {MAX_CONFIG_LENGTH}. "
            "Check that it is the right file."
        )
    return _Reader(text, source).read()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One `key=value` line; `value` is raw, its escapes not yet replaced."""

    line: int
    group: str
    key: str
    value: str


def _error(source: str, line: int, text: str) -> ConfigError:
    return ConfigError(f"{source}, line {line}: {text}")


def _entries(text: str, source: str) -> Iterator[_Entry | tuple[int, str]]:
    """Yield each entry, and each group's line and name where the group starts."""
    group = None
    # Not splitlines(): to a key file U+2028 and the like are characters as any others.
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(_BLANK)
        if not line or line.startswith("#"):
            continue
        if "\0" in line:
            raise _error(source, number, "the line holds a NUL character. Write the file as plain text.")
        if line.startswith("["):
            group = _group_name(line, source, number)
            yield number, group
            continue
        key, equals, value = (part.strip(_BLANK) for part in line.partition("="))
        if not equals or not key:
            raise _error(source, number, f"expected [group], key=value or # comment, not {_shown(line)}.")
        if group is None:
            raise _error(
                source, number, f"{_shown(key)} stands before the first [group]. Write one above it."
            )
        yield _Entry(line=number, group=group, key=key, value=value)


def _group_name(line: str, source: str, number: int) -> str:
    name = line[1:-1]
    if not line.endswith("]") or not name or any(c in "[]" or ord(c) < 0x20 for c in name):
        raise _error(
            source, number, f"expected a group's name in brackets, as in [debug], not {_shown(line)}."
        )
    return name


class _Reader:
    """Gives the entries of one file their meaning."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.entries: dict[tuple[str, str], _Entry] = {}
        self.warnings: list[ConfigWarning] = []

    def read(self) -> tuple[Configuration, list[ConfigWarning]]:
        for item in _entries(self.text, self.source):
            if isinstance(item, _Entry):
                self.take(item)
            else:
                self.check_group(*item)
        configuration = Configuration(
            debug=DebugConfiguration(
                loglevel=self.integer("loglevel"),
                tls=self.integer("tls"),
                nl=self.integer("nl"),
                delay_done=self.delay(),
            ),
            keyrings=self.strings("authenticate", "keyrings"),
            client=self.role("authenticate.client"),
            server=self.role("authenticate.server"),
        )
        return configuration, self.warnings

    def check_group(self, line: int, group: str) -> None:
        if group not in _KNOWN:
            nearest = _nearest(group, _KNOWN)
            self.warn(line, f"the group {_shown(group)} is unknown and ignored.{nearest}")

    def take(self, entry: _Entry) -> None:
        known = _KNOWN.get(entry.group)
        if known is None:
            return  # Said once, where the group starts.
        if entry.key not in known:
            nearest = _nearest(entry.key, known)
            self.warn(
                entry.line, f"the key {_shown(entry.key)} is unknown in [{entry.group}] and ignored.{nearest}"
            )
        elif entry.key in _NOT_SUPPORTED:
            raise self.error(entry, f"{entry.key} {_NOT_SUPPORTED[entry.key]}.")
        else:
            self.entries[entry.group, entry.key] = entry

    def warn(self, line: int, text: str) -> None:
        if len(self.warnings) == MAX_WARNINGS:
            raise _error(
                self.source,
                line,
                f"more than {MAX_WARNINGS} lines up to here have no effect. Check that it is the right file.",
            )
        self.warnings.append(ConfigWarning(source=self.source, line=line, text=text))

    def error(self, entry: _Entry, text: str) -> ConfigError:
        return _error(self.source, entry.line, text)

    def integer(self, key: str) -> int:
        entry = self.entries.get(("debug", key))
        if entry is None:
            return 0
        if not _INTEGER.fullmatch(entry.value):
            raise self.error(entry, f"{key} takes a whole number, as in {key}=1, not {_shown(entry.value)}.")
        return int(entry.value)

    def delay(self) -> int:
        seconds = self.integer("delay_done")
        entry = self.entries.get(("debug", "delay_done"))
        if entry is not None and not 0 <= seconds <= MAX_DELAY_DONE:
            raise self.error(entry, f"delay_done takes 0 to {MAX_DELAY_DONE} seconds, not {seconds}.")
        return seconds

    def strings(self, group: str, key: str) -> tuple[str, ...]:
        entry = self.entries.get((group, key))
        if entry is None:
            return ()
        self.check_escapes(
            entry
        )  # Before the pattern, which takes its time with a lone backslash at the end.
        items = (item.strip(_BLANK) for item in _LIST_ITEM.findall(entry.value))
        return tuple(_unescape(item) for item in items if item)

    def role(self, group: str) -> RoleConfiguration:
        self.check_pair(group, "x509.certificate", "x509.private_key")
        self.check_pair(group, "x509.private_key", "x509.certificate")
        return RoleConfiguration(
            truststore=self.path(group, "x509.truststore"),
            revocation_lists=self.path(group, "x509.crl"),
            certificate=self.path(group, "x509.certificate"),
            private_key=self.path(group, "x509.private_key"),
        )

    def check_pair(self, group: str, key: str, partner: str) -> None:
        entry = self.entries.get((group, key))
        if entry is not None and (group, partner) not in self.entries:
            raise self.error(entry, f"{key} needs {partner} beside it in [{group}], which is missing.")

    def path(self, group: str, key: str) -> str | None:
        entry = self.entries.get((group, key))
        if entry is None:
            return None
        self.check_escapes(entry)
        path = _unescape(entry.value)
        if path.startswith("pkcs11:"):
            raise self.error(
                entry,
                f"{key} takes the path of a file: this version has no PKCS #11 keys. A `Signer` of your own can be given to "
                "the engine.",
            )
        # A daemon has no useful current directory, and reloads long after its start.
        if not path.startswith("/"):
            raise self.error(entry, f"{key} takes an absolute path, which starts with /, not {_shown(path)}.")
        return path

    def check_escapes(self, entry: _Entry) -> None:
        for escape in _ESCAPE.finditer(entry.value):
            if escape[1] not in _ESCAPES:
                raise self.error(
                    entry,
                    rf"{entry.key} holds the unknown escape {_shown(escape[0])}. A backslash is written as \\.",
                )


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda escape: _ESCAPES[escape[1]], value)


def _nearest(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    matches = difflib.get_close_matches(_clipped(name), list(known), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


def _clipped(text: str) -> str:
    """Bound what of a strange file goes into a message."""
    return text if len(text) <= 60 else text[:57] + "..."


def _shown(text: str) -> str:
    # ASCII, so that any log takes it and nothing in it can pass for another line.
    return ascii(_clipped(text))
