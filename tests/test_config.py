r"""What a tlshd.conf may say, and what each mistake in it gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.config import (
    MAX_CONFIG_LENGTH,
    MAX_WARNINGS,
    ConfigError,
    Configuration,
    ConfigWarning,
    DebugConfiguration,
    RoleConfiguration,
    parse_tlshd_conf,
)

SOURCE = "/etc/tlshd/config"

FULL = """\
# tlshd's configuration
[debug]
loglevel=1
tls=2
nl=3
delay_done=4

[authenticate]
keyrings= .nvme;.nfs;backup

[authenticate.client]
x509.truststore= /etc/pki/ca.pem
x509.crl= /etc/pki/crl.pem
x509.certificate= /etc/pki/client.pem
x509.private_key= /etc/pki/client.key

[authenticate.server]
x509.certificate=/etc/pki/server.pem
x509.private_key=/etc/pki/server.key
"""


def configuration(text: str) -> Configuration:
    parsed, warnings = parse_tlshd_conf(text, source=SOURCE)
    assert warnings == []
    return parsed


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in parse_tlshd_conf(text, source=SOURCE)[1]]


def keyrings(value: str) -> tuple[str, ...]:
    return configuration(f"[authenticate]\nkeyrings={value}\n").keyrings


def truststore(value: str) -> str | None:
    return configuration(f"[authenticate.client]\nx509.truststore={value}\n").client.truststore


def test_reads_everything() -> None:
    assert configuration(FULL) == Configuration(
        debug=DebugConfiguration(loglevel=1, tls=2, nl=3, delay_done=4),
        keyrings=(".nvme", ".nfs", "backup"),
        client=RoleConfiguration(
            truststore="/etc/pki/ca.pem",
            revocation_lists="/etc/pki/crl.pem",
            certificate="/etc/pki/client.pem",
            private_key="/etc/pki/client.key",
        ),
        server=RoleConfiguration(certificate="/etc/pki/server.pem", private_key="/etc/pki/server.key"),
    )


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "[debug]\n[authenticate]\n", "  \t\r\n"])
def test_an_empty_file_gives_the_defaults(text: str) -> None:
    assert configuration(text) == Configuration()


# The syntax: GLib's key file


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[debug]\nloglevel=7", id="no line feed at the end"),
        pytest.param("[debug]\r\nloglevel=7\r\n", id="line ends of Windows"),
        pytest.param("  [debug]  \n\t loglevel \t=  7 \n", id="blanks around everything"),
        pytest.param("[debug]\nloglevel=1\nloglevel=7\n", id="the last of equal keys"),
        pytest.param("[debug]\nloglevel=1\n[authenticate]\n[debug]\nloglevel=7\n", id="groups merge"),
        pytest.param("[debug]\n  #loglevel=1\nloglevel=7\n#loglevel=2\n", id="comments"),
        pytest.param("[debug]\nloglevel=+7", id="a sign"),
    ],
)
def test_follows_the_syntax_of_key_files(text: str) -> None:
    assert configuration(text).debug.loglevel == 7


def test_groups_that_appear_twice_keep_the_keys_of_both() -> None:
    assert configuration("[debug]\ntls=1\n[debug]\nnl=2\n").debug == DebugConfiguration(tls=1, nl=2)


def test_an_indented_line_is_a_line_of_its_own() -> None:
    assert configuration("[debug]\ntls=1\n  nl=2\n").debug == DebugConfiguration(tls=1, nl=2)


def test_group_default_gives_its_keys_to_no_other() -> None:
    parsed, _ = parse_tlshd_conf("[DEFAULT]\ntls=1\n[debug]\nnl=2\n", source=SOURCE)
    assert parsed.debug == DebugConfiguration(nl=2)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/a=b", "/a=b"),
        ("/a#b", "/a#b"),
        ("/a:b", "/a:b"),
        ("/a b", "/a b"),
        ("/%(x)s${y}", "/%(x)s${y}"),
        (r"/a\sb\s", "/a b "),
        (r"/a\\sb", r"/a\sb"),
        (r"/a\tb\nc\rd", "/a\tb\nc\rd"),
        ("/a\u2028b\x0cc", "/a\u2028b\x0cc"),
        ("/b\udcfc", "/b\udcfc"),
    ],
)
def test_a_path_is_what_stands_there_but_for_escapes(value: str, path: str) -> None:
    assert truststore(value) == path


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ()),
        (";", ()),
        ("a", ("a",)),
        ("a;", ("a",)),
        (" a ; b;;c ", ("a", "b", "c")),
        (r"a\;b;c", ("a;b", "c")),
        (r"a\\;b", ("a\\", "b")),
        (r"\sa\s;b", (" a ", "b")),
    ],
)
def test_a_list_is_split_at_semicolons_that_are_not_escaped(value: str, names: tuple[str, ...]) -> None:
    assert keyrings(value) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loglevel=1", "line 1: 'loglevel' stands before the first [group]. Write one above it."),
        ("[debug]\nloglevel", "line 2: expected [group], key=value or # comment, not 'loglevel'."),
        ("[debug]\nloglevel: 1", "line 2: expected [group], key=value or # comment, not 'loglevel: 1'."),
        ("[debug]\n; comment", "line 2: expected [group], key=value or # comment, not '; comment'."),
        ("[debug]\n\n= 1", "line 3: expected [group], key=value or # comment, not '= 1'."),
        ("[debug", "line 1: expected a group's name in brackets, as in [debug], not '[debug'."),
        (
            "[debug] # text",
            "line 1: expected a group's name in brackets, as in [debug], not '[debug] # text'.",
        ),
        ("[]", "line 1: expected a group's name in brackets, as in [debug], not '[]'."),
        ("[", "line 1: expected a group's name in brackets, as in [debug], not '['."),
        ("[[debug]]", "line 1: expected a group's name in brackets, as in [debug], not '[[debug]]'."),
        ("[de\tbug]", "line 1: expected a group's name in brackets, as in [debug], not '[de\\tbug]'."),
        ("[debug]\nnl=1\0", "line 2: the line holds a NUL character. Write the file as plain text."),
        ("\ufeff[debug]", "line 1: expected [group], key=value or # comment, not '\\ufeff[debug]'."),
        ("x" * 100, f"line 1: expected [group], key=value or # comment, not '{'x' * 57}...'."),
    ],
)
def test_refuses_what_is_no_key_file_and_names_the_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tlshd_conf(text, source=SOURCE)
    assert str(caught.value) == f"{SOURCE}, {message}"


def test_refuses_a_file_that_is_too_long() -> None:
    assert configuration("#" * MAX_CONFIG_LENGTH) == Configuration()
    with pytest.raises(
        ConfigError, match=f"has {MAX_CONFIG_LENGTH + 1} characters; a configuration has at most"
    ):
        parse_tlshd_conf("#" * (MAX_CONFIG_LENGTH + 1), source=SOURCE)


# The meaning

CLIENT, SERVER = "[authenticate.client]\n", "[authenticate.server]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[debug]\nloglevel=high", "line 2: loglevel takes a whole number, as in loglevel=1, not 'high'."),
        ("[debug]\ndelay_done=61", "line 2: delay_done takes 0 to 60 seconds, not 61."),
        ("[debug]\ndelay_done=-1", "line 2: delay_done takes 0 to 60 seconds, not -1."),
        ("[debug]\ntls=", "line 2: tls takes a whole number, as in tls=1, not ''."),
        ("[debug]\nnl=1_0", "line 2: nl takes a whole number, as in nl=1, not '1_0'."),
        ("[debug]\nnl=\u0663", "line 2: nl takes a whole number, as in nl=1, not '\\u0663'."),
        ("[debug]\nnl=1234567890", "line 2: nl takes a whole number, as in nl=1, not '1234567890'."),
        (
            CLIENT + "x509.truststore=ca.pem",
            "line 2: x509.truststore takes an absolute path, which starts with /, not 'ca.pem'.",
        ),
        (
            SERVER + "x509.truststore=",
            "line 2: x509.truststore takes an absolute path, which starts with /, not ''.",
        ),
        (
            CLIENT + "x509.truststore=/a\\qb",
            "line 2: x509.truststore holds the unknown escape '\\\\q'. A backslash is written as \\\\.",
        ),
        (
            "[authenticate]\nkeyrings=a;b\\",
            "line 2: keyrings holds the unknown escape '\\\\'. A backslash is written as \\\\.",
        ),
        (
            CLIENT + "\nx509.certificate=/c",
            (
                "line 3: x509.certificate needs x509.private_key beside it in [authenticate.client], "
                "which is missing."
            ),
        ),
        (
            SERVER + "x509.private_key=/k\n" + CLIENT + "x509.certificate=/c\nx509.private_key=/k",
            (
                "line 2: x509.private_key needs x509.certificate beside it in [authenticate.server], "
                "which is missing."
            ),
        ),
    ],
)
def test_refuses_a_value_that_cannot_be_used_and_names_the_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tlshd_conf(text, source=SOURCE)
    assert str(caught.value) == f"{SOURCE}, {message}"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[debgu]\ntls=1", "line 1: the group 'debgu' is unknown and ignored. Did you mean debug?"),
        ("[DEBUG]", "line 1: the group 'DEBUG' is unknown and ignored."),
        (
            "[authenticate.clients]",
            "line 1: the group 'authenticate.clients' is unknown and ignored. Did you mean authenticate.client?",
        ),
        (
            "[debug]\n\nlog_level=1",
            "line 3: the key 'log_level' is unknown in [debug] and ignored. Did you mean loglevel?",
        ),
        (
            CLIENT + "x509.trustsore=/ca",
            (
                "line 2: the key 'x509.trustsore' is unknown in [authenticate.client] and ignored. "
                "Did you mean x509.truststore?"
            ),
        ),
        ("[debug]\nqqqq=1", "line 2: the key 'qqqq' is unknown in [debug] and ignored."),
    ],
)
def test_warns_of_what_has_no_effect(text: str, warning: str) -> None:
    parsed, found = parse_tlshd_conf(text, source=SOURCE)
    assert parsed == Configuration()
    assert [str(each) for each in found] == [f"{SOURCE}, {warning}"]


@pytest.mark.parametrize("group", [CLIENT, SERVER])
@pytest.mark.parametrize("key", ["x509.pq.certificate", "x509.pq.private_key"])
def test_post_quantum_certificates_are_never_silently_ignored(group: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tlshd_conf(f"{group}{key}=/pq.pem", source=SOURCE)
    assert str(caught.value).startswith(
        f"{SOURCE}, line 2: {key} is set, but this version presents and verifies no"
    )


def test_a_key_in_a_token_is_refused_as_what_it_is() -> None:
    text = SERVER + "x509.certificate=/c\nx509.private_key=pkcs11:object=key;type=private"
    with pytest.raises(
        ConfigError, match=r"line 3: x509\.private_key takes the path of a file: this version has no PKCS"
    ):
        parse_tlshd_conf(text, source=SOURCE)


def test_warnings_come_in_the_order_of_the_lines() -> None:
    _, found = parse_tlshd_conf("[debug]\nx=\n[nobody]\ny=\n[debug]\nz=\n", source=SOURCE)
    assert [each.line for each in found] == [2, 3, 6]
    assert found[0] == ConfigWarning(
        source=SOURCE, line=2, text="the key 'x' is unknown in [debug] and ignored."
    )


def test_refuses_a_file_of_which_next_to_nothing_has_an_effect() -> None:
    assert len(warnings("[debug]\n" + "x=\n" * MAX_WARNINGS)) == MAX_WARNINGS
    with pytest.raises(ConfigError, match="line 102: more than 100 lines up to here have no effect"):
        warnings("[debug]\n" + "x=\n" * (MAX_WARNINGS + 1))


# Any text


def _written(configuration: Configuration) -> str:
    def escaped(value: str) -> str:
        for plain, escape in (
            ("\\", r"\\"),
            (" ", r"\s"),
            ("\n", r"\n"),
            ("\t", r"\t"),
            ("\r", r"\r"),
            (";", r"\;"),
        ):
            value = value.replace(plain, escape)
        return value

    debug = configuration.debug
    lines = ["[debug]", f"loglevel={debug.loglevel}", f"tls={debug.tls}", f"nl={debug.nl}", "[authenticate]"]
    lines.append("keyrings=" + "".join(f"{escaped(name)};" for name in configuration.keyrings))
    for name, role in (("client", configuration.client), ("server", configuration.server)):
        lines.append(f"[authenticate.{name}]")
        for key in ("truststore", "certificate", "private_key"):
            value = getattr(role, key)
            if value is not None:
                lines.append(f"x509.{key}={escaped(value)}")
    return "\n".join(lines)


# A form feed or a vertical tab at the end has no escape; NUL is refused.
names = st.text(st.characters(exclude_characters="\0\f\v"), min_size=1, max_size=20)
paths = names.map("/".__add__)
numbers = st.integers(0, 999_999_999)
roles = st.builds(RoleConfiguration, truststore=st.none() | paths) | st.builds(
    RoleConfiguration, truststore=st.none() | paths, certificate=paths, private_key=paths
)
configurations = st.builds(
    Configuration,
    debug=st.builds(DebugConfiguration, loglevel=numbers, tls=numbers, nl=numbers),
    keyrings=st.lists(names, max_size=4).map(tuple),
    client=roles,
    server=roles,
)


@given(configurations)
def test_what_is_written_is_read_unchanged(wanted: Configuration) -> None:
    assert configuration(_written(wanted)) == wanted


fragments = st.sampled_from(
    [
        *(
            "[",
            "]",
            "=",
            "#",
            ";",
            "\\",
            "\n",
            " ",
            "\0",
            "/",
            "1",
            "debug",
            "loglevel",
            "authenticate",
            ".client",
        ),
        *("[debug]\n", "[authenticate.server]\n", "keyrings="),
        *("x509.crl", "x509.certificate=/c\n", "x509.private_key="),
    ]
)


@given(st.text(st.characters()) | st.lists(fragments | st.text(st.characters(), max_size=3)).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parsed, found = parse_tlshd_conf(text, source=SOURCE)
    except ConfigError as error:
        message = str(error)
    else:
        message = f"{SOURCE}, line 0"
        assert (parsed.client.certificate is None) == (parsed.client.private_key is None)
        assert (parsed.server.certificate is None) == (parsed.server.private_key is None)
        assert len(found) <= MAX_WARNINGS
    assert message.startswith(f"{SOURCE}, line ")
