"""`ktls-agent explain`: as text, as JSON and as a page."""

import io
import json
import os
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.cli.explain_text import render_text
from ktls_agent.cli.main import group
from ktls_agent.cli.page import render_page
from ktls_agent.cli.wording import Group, fact_groups
from ktls_agent.sansio.capture.explain import explain
from ktls_agent.sansio.capture.explanation import Explanation, encode_explanation
from ktls_agent.sansio.capture.transcript import TimedStep, Transcript, encode_transcript
from ktls_agent.sansio.request import ClientAnon, ClientPsk, ServerPsk
from ktls_agent.sansio.status import OUTCOMES, Cause
from ktls_agent.sansio.steps import Noted, Plaintext, Reported, Summarized
from ktls_agent.sansio.tls.parameters import ClientPskParameters, ServerParameters, ServerPskParameters
from tests import pki
from tests.capture import recorded
from tests.capture.transcripts import Keys, engine_peer, of_steps, psk, record, script, started
from tests.cli.test_cli import invoke
from tests.peers import messages as m
from tests.tls.handshakes import authority, server_engine, server_parameters

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def client_psk() -> Transcript:
    key = psk()
    request = ClientPsk(
        sockfd=9, peername="nvme.test", timeout=30.0, keyring=0x300, peer_identities=(0x2000,)
    )
    return record(request, engine_peer(started(ServerPskParameters()), key), keys=Keys(key))


def other_key() -> Transcript:
    peer = engine_peer(started(ClientPskParameters(keys=(psk(),))))
    return record(ServerPsk(sockfd=13), peer, keys=Keys(psk(secret=bytes([1] * 32))))


def hostile() -> Transcript:
    """A peer whose every name is an attack on the page."""
    issued = authority().issue(
        ("server.test",),
        subject=pki.common_name(HOSTILE[:64]),
        extensions=[(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(HOSTILE)]), False)],
        omit=(x509.SubjectAlternativeName,),
    )
    parameters = server_parameters()
    peer = engine_peer(
        server_engine(ServerParameters(identities=(issued.identity(), *parameters.identities)))
    )
    return record(ClientAnon(sockfd=13, peername=HOSTILE), peer)


# The command


def write(path: Path, transcript: Transcript) -> str:
    path.write_bytes(encode_transcript(transcript))
    return str(path)


def test_a_transcript_is_explained_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "one", recorded.transcript("client"))
    code, out, err = invoke("explain", path)
    assert (code, err) == (0, "")
    assert out == render_text(explain(recorded.transcript("client")))
    assert out.startswith("The handshake succeeded: ")


def test_a_failed_handshake_is_explained_with_status_0(tmp_path: Path) -> None:
    code, out, _ = invoke("explain", write(tmp_path / "one", other_key()))
    assert code == 0
    assert out.startswith("The handshake failed: ")


def test_standard_input_is_explained() -> None:
    data = encode_transcript(client_psk())
    result = CliRunner().invoke(group, ["explain", "-"], input=io.BytesIO(data))
    assert result.exit_code == 0
    assert result.stdout == render_text(explain(client_psk()))


def test_json(tmp_path: Path) -> None:
    code, out, err = invoke("explain", "--json", write(tmp_path / "one", client_psk()))
    assert (code, err) == (0, "")
    assert out == encode_explanation(explain(client_psk())) + "\n"
    assert json.loads(out)["verdict"]["outcome"] == "done"


def test_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    code, out, err = invoke("explain", "--html", str(page), write(tmp_path / "one", client_psk()))
    assert (code, out, err) == (0, "", "")
    assert page.read_text(encoding="utf-8") == render_page(explain(client_psk()))


def test_a_page_and_json_at_once(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    path = write(tmp_path / "one", client_psk())
    code, out, _ = invoke("explain", "--json", "--html", str(page), path)
    assert code == 0
    assert json.loads(out)
    assert page.exists()


def test_what_is_no_transcript_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"hello\n")
    code, out, err = invoke("explain", str(path))
    assert (code, out) == (os.EX_DATAERR, "")
    assert err.startswith(f"{path}: Line 1 is not part of a transcript: ")
    assert err.count("\n") == 1


def test_what_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "none"
    expected = f"{path}: It can't be read: No such file or directory.\n"
    assert invoke("explain", str(path)) == (os.EX_NOINPUT, "", expected)


def test_a_page_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    page = tmp_path / "no" / "page"
    path = write(tmp_path / "one", client_psk())
    expected = f"{page}: It can't be written: No such file or directory.\n"
    assert invoke("explain", path, "--html", str(page)) == (os.EX_CANTCREAT, "", expected)


# Text

CLIENT_PSK = """\
The handshake succeeded: AES_128_GCM with x25519; both sides have the same pre-shared key.

Request
  role                TLS client
  authenticates with  pre-shared keys
  peer                nvme.test
  address             192.0.2.7
  consumer waits      30 s
  DONE                ok
  recorded            2026-06-01 12:00:00 UTC, by ktls-agent 0.1.0

TLS 1.3
  cipher suite        AES_128_GCM
  group               x25519
  pre-shared key      NVMe0R01 nqn.host nqn.subsystem

Time
  handshake           5.2 ms
  done                1.2 ms
  total               6.4 ms

     ms  kernel                                    agent                                       peer
    0.0  |<- ACCEPT ---------------------------------|                                           |
         |    HANDLER_CLASS: TLSHD                   |                                           |
    0.2  |-- request (CLIENTHELLO, PSK) ------------>|                                           |
         |    PEERNAME: nvme.test                    |                                           |
         |    TIMEOUT: 30000 ms                      |                                           |
         |    KEYRING: keyring 0x300                 |                                           |
         |    PEER_IDENTITY: key 0x2000              |                                           |
         |    SOCKFD: fd 9                           |                                           |
"""


def test_a_success_as_text() -> None:
    text = render_text(explain(client_psk()))
    assert text.startswith(CLIENT_PSK)
    assert text.endswith(
        "    6.6  |<- close fd 9 -----------------------------|                                           |\n"
    )


OTHER_KEY = """\
The handshake failed: the peer has another pre-shared key of the same identity. Insert the same
key on both sides: now they hold different ones of one identity.
Reason: The client has another key for the identity NVMe0R01 nqn.host nqn.subsystem (wrong
binder).

Request
  role                TLS server
  authenticates with  pre-shared keys
  address             192.0.2.7
  DONE                EACCES
  recorded            2026-06-01 12:00:00 UTC, by ktls-agent 0.1.0

Time
  handshake           2.0 ms
  done                0.8 ms
  total               2.8 ms

     ms  kernel                                    agent                                       peer
    0.0  |<- ACCEPT ---------------------------------|                                           |
         |    HANDLER_CLASS: TLSHD                   |                                           |
    0.2  |-- request (SERVERHELLO, PSK) ------------>|                                           |
         |    SOCKFD: fd 13                          |                                           |
    1.2  |                                           |<- ClientHello (230 B) --------------------|
         |                                           |    suites: AES_128_GCM,                   |
         |                                           |      CHACHA20_POLY1305, AES_128_CCM       |
         |                                           |    versions: TLS 1.3                      |
         |                                           |    key shares: x25519 (32 bytes)          |
         |                                           |    PSK modes: psk_dhe_ke                  |
         |                                           |    groups: x25519, secp256r1, secp384r1,  |
         |                                           |      secp521r1                            |
         |                                           |    PSK identities: NVMe0R01 nqn.host      |
         |                                           |      nqn.subsystem, (1 binder)            |
    1.4  |-- 1 of 1 pre-shared keys known ---------->|                                           |
         |    key 0x2000: NVMe0R01 nqn.host          |                                           |
         |      nqn.subsystem                        |                                           |
    1.6  |                                           |-- alert decrypt_error ------------------->|
         |                                           |    level: fatal                           |
    1.8  |                                           |   [psk mismatch]                          |
         |                                           |    why: The client has another key for    |
         |                                           |      the identity NVMe0R01 nqn.host       |
         |                                           |      nqn.subsystem (wrong binder).        |
    2.4  |<- DONE EACCES ----------------------------|                                           |
         |    SOCKFD: fd 13                          |                                           |
    2.6  |-- acknowledged -------------------------->|                                           |
    3.0  |<- close fd 13 ----------------------------|                                           |
"""


def test_a_failure_as_text() -> None:
    assert render_text(explain(other_key())) == OTHER_KEY


DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "explain.md").read_text(encoding="utf-8")


def test_the_documents_sample_is_what_comes_out() -> None:
    assert f"```\n{OTHER_KEY}```\n" in DOCUMENT


def test_the_document_names_every_key_of_the_json() -> None:
    def keys(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value).union(*map(keys, value.values())) if isinstance(value, dict) else set()

    explanation = explain(recorded.transcript("server"))
    assert {
        key for key in keys(json.loads(encode_explanation(explanation))) if f"`{key}`" not in DOCUMENT
    } == set()


def test_notes_are_told_as_text() -> None:
    assert "\nNote: something is odd\n" in render_text(explain(of_steps(Noted(text="something is odd"))))


# How facts are worded


def group_of(explanation: Explanation, title: str) -> Group:
    (found,) = (group for group in fact_groups(explanation) if group.title == title)
    return found


def test_a_certificate_that_was_not_valid_is_marked() -> None:
    old = authority().issue(("server.test",), not_before=pki.NOW - 9 * pki.DAY, not_after=pki.NOW - pki.DAY)
    peer = engine_peer(server_engine(ServerParameters(identities=(old.identity(),))))
    explanation = explain(record(ClientAnon(sockfd=3, peername="server.test"), peer))
    certificate = group_of(explanation, "The peer's certificate")
    assert certificate.warning
    assert dict(certificate.facts)["valid"] == (
        "2026-05-23 12:00:00 UTC to 2026-05-31 12:00:00 UTC; NOT at the time of this handshake"
    )
    assert "\nThe peer's certificate (!)\n" in render_text(explanation)


def certificates_of(*chain: bytes) -> Explanation:
    message = m.certificate(chain)
    return explain(of_steps(Plaintext(outgoing=False, content_type=22, data=message)))


def test_certificates_above_and_those_that_can_not_be_read() -> None:
    explanation = certificates_of(authority().der(), b"junk")
    leaf = dict(group_of(explanation, "The peer's certificate").facts)
    assert leaf["names"] == "none"
    assert leaf["usages"] == "any"
    above = group_of(explanation, "The peer's certificate: 1 above it")
    assert above.warning
    assert [name for name, _ in above.facts] == ["defect", "SHA-256"]


def test_two_round_trips_are_told() -> None:
    peer = engine_peer(server_engine(server_parameters(groups=("secp384r1",))))
    explanation = explain(record(ClientAnon(sockfd=3, peername="server.test"), peer))
    assert "HelloRetryRequest" in dict(group_of(explanation, "TLS 1.3").facts)["round trips"]


def test_what_is_not_known_is_left_out() -> None:
    titles = [group.title for group in fact_groups(explain(of_steps()))]
    assert titles == ["Request"]
    assert dict(fact_groups(explain(of_steps()))[0].facts)["role"] == "unknown"


# The page


class Page(HTMLParser):
    """Reads a page, and fails where elements are not nested as they should be."""

    VOID = frozenset({"meta", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.stack[-1] if self.stack else "", data))

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def text(self, tag: str) -> list[str]:
        return [text for within, text in self.texts if within == tag]

    def count(self, tag: str, class_: str | None = None) -> int:
        return sum(1 for name, found in self.elements if name == tag and class_ in (None, found.get("class")))


ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p", "span", "section", "div",
    "ol", "li", "details", "summary", "dl", "dt", "dd", "wbr", "svg", "line", "path", "table", "thead", "tbody", "tr",
    "th", "td",
}  # fmt: skip


@pytest.mark.parametrize("kind", recorded.PLAYS)
def test_every_page_is_well_formed_and_needs_nothing_else(kind: str) -> None:
    explanation = explain(recorded.transcript(kind))
    html = render_page(explanation)
    page = Page(html)
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert page.tags() <= ALLOWED
    assert not {"src", "href", "style", "onclick", "id"} & {
        name for _, found in page.elements for name in found
    }
    assert "url(" not in html
    assert "@import" not in html
    assert page.count("li") == len(explanation.ladder)
    assert page.count("svg", "arrow") + page.count("span", "text remark") == len(explanation.ladder)


def test_the_first_line_says_what_went_wrong_and_what_to_do() -> None:
    page = Page(render_page(explain(other_key())))
    headline = "The handshake failed: the peer has another pre-shared key of the same identity."
    outcome = OUTCOMES[Cause.PSK_MISMATCH]
    assert page.text("title")[0] == headline
    assert page.text("h1") == [headline]
    assert page.texts.index(("h1", headline)) < page.texts.index(("span", f" {outcome.remedy}"))
    first = next(text for tag, text in page.texts if tag in ("h1", "span", "p"))
    assert first == "✕ "


def test_tones_have_marks_beside_their_colours() -> None:
    html = render_page(explain(other_key()))
    assert html.count('<span class="label">✕ ') == 3  # the alert, the failure, DONE
    assert '<li class="bad"><details open="">' in html
    assert "<h3>✕ " not in html
    assert "<h3>✕ The peer's certificate" in render_page(certificates_of(b"junk"))
    assert '<span class="label">! note' in render_page(explain(of_steps(Noted(text="odd"))))


def test_what_went_wrong_is_unfolded_and_the_rest_is_not() -> None:
    html = render_page(explain(other_key()))
    assert html.count("<details open") == 1
    assert html.index("psk mismatch</span>") > html.index("<details open")
    assert Page(render_page(explain(recorded.transcript("client")))).count("details") > 10
    assert "<details open" not in render_page(explain(recorded.transcript("client")))


def test_a_defect_is_unfolded() -> None:
    html = render_page(
        explain(record(ClientAnon(sockfd=3), script(b"\x16\x03\x03\x00\x06\x02\x00\x00\x50\x03\x03")))
    )
    assert "<dt>defect</dt><dd>only 6 of its 84 bytes are there</dd>" in html


def test_arrows_point_to_whom_is_spoken_to() -> None:
    explanation = explain(record(ClientAnon(sockfd=3), script()))
    page = Page(render_page(explanation))
    lines = [found for tag, found in page.elements if tag == "line" and "class" not in found]
    heads = [found["d"] for tag, found in page.elements if tag == "path"]
    ends = [(found["x1"], found["x2"]) for found in lines]
    right = {"kernel": "0%", "agent": "50%", "peer": "100%"}
    spoken = [row for row in explanation.ladder if row.source != row.target]
    assert ends == [(right[row.source], right[row.target]) for row in spoken]
    to_the_right = [row.target == "peer" or row.source == "kernel" for row in spoken]
    assert heads == ["M-9,-13 L0,-8 L-9,-3" if right else "M9,-13 L0,-8 L9,-3" for right in to_the_right]
    titles = page.text("title")[1:]
    assert titles == [
        "agent:" if row.source == row.target else f"{row.source} to {row.target}:"
        for row in explanation.ladder
    ]


def test_the_table_says_the_same() -> None:
    explanation = explain(other_key())
    page = Page(render_page(explanation))
    assert page.count("tr") == 1 + len(explanation.ladder)
    cells = page.text("td")
    assert cells[:5] == ["0.0", "agent", "kernel", "ACCEPT", "HANDLER_CLASS: TLSHD"]
    assert "ClientHello (230 B)" in cells


def test_long_times_have_no_decimal() -> None:
    steps = (TimedStep(at=0.9994, step=Noted(text="a")), TimedStep(at=12.3456, step=Noted(text="b")))
    page = Page(render_page(explain(replace(of_steps(), steps=steps))))
    assert page.text("td")[0::5] == ["999.4", "12346"]


def test_long_names_may_be_broken_at_their_humps() -> None:
    html = render_page(explain(recorded.transcript("client")))
    assert "Encrypted<wbr>Extensions" in html
    assert "TLS_<wbr>TX" in html


def test_a_hostile_peer_stays_text() -> None:
    html = render_page(explain(hostile()))
    assert "alert(1)" in html
    page = Page(html)
    assert page.tags() <= ALLOWED
    assert page.count("style") == 1
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    policies = [found["content"] for tag, found in page.elements if "http-equiv" in found]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


@given(st.text(max_size=30))
def test_any_text_stays_text(text: str) -> None:
    fields: dict[str, str | int | float] = {
        "cause": "shutdown",
        "reason": text,
        "note": text,
        f"{text}_ms": 1,
    }
    explanation = explain(
        of_steps(Noted(text=text), Reported(status=5, remote_auth=()), Summarized(fields=fields))
    )
    html = render_page(explanation)
    html.encode()
    assert Page(html).tags() <= ALLOWED
    render_text(explanation).encode()
