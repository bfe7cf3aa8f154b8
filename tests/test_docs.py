"""What the documents show is so."""

import ast
import errno
import re
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.sansio import testing
from ktls_agent.sansio.config import parse_tlshd_conf
from ktls_agent.sansio.lifecycle import AbortHandshake, CloseSocket, SendDone, StartHandshake
from ktls_agent.sansio.request import ClientAnon
from ktls_agent.sansio.testing.playbook import Cancel, DoneAnswered, Playbook, Start

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_configuration_in_the_readme_is_taken_without_a_warning() -> None:
    (sample,) = blocks(ROOT / "README.md", "ini")
    configuration, warnings = parse_tlshd_conf(sample, source="README.md")
    assert warnings == []
    assert configuration.client.certificate == "/etc/pki/nfs/client.pem"
    assert configuration.server.private_key == "/etc/pki/nfs/server.key"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_examples_import_exists(path: Path) -> None:
    for code in blocks(path, "python"):
        imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(body=list(imports), type_ignores=[]), path.name, "exec"), {})  # noqa: S102


TESTING = ROOT / "docs" / "testing.md"
MAX_LINES = 10
"""What the page promises: a test of one's own takes about ten lines."""


def examples() -> list[tuple[str, str, ast.FunctionDef]]:
    """The code of each block of docs/testing.md, with the name and the tree of each test in it."""
    return [
        (code, node.name, node)
        for code in blocks(TESTING, "python")
        for node in ast.parse(code).body
        if isinstance(node, ast.FunctionDef)
    ]


@pytest.mark.parametrize(
    ("code", "name", "tree"), examples(), ids=lambda part: part if str(part).startswith("test_") else ""
)
def test_the_examples_of_tests_pass_and_are_short(code: str, name: str, tree: ast.FunctionDef) -> None:
    assert name.startswith("test_")
    body = code.splitlines()[tree.lineno : tree.end_lineno]
    assert len([line for line in body if line.strip()]) <= MAX_LINES
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, str(TESTING), "exec"), namespace)  # noqa: S102
    namespace[name]()


def test_every_example_of_a_test_is_run() -> None:
    assert {code for code, _, _ in examples()} == set(blocks(TESTING, "python"))
    assert len(examples()) >= 3


def test_the_page_on_testing_shows_a_mismatch_as_it_is() -> None:
    shown = blocks(TESTING, "text")[0].split("AssertionError: ")[1]
    book = Playbook(ClientAnon(sockfd=7))
    with pytest.raises(AssertionError) as caught:
        assert (
            book
            >> Start()
            << StartHandshake
            >> Cancel()
            << AbortHandshake(alert=None)
            << SendDone(sockfd=7, status=errno.EACCES)
            >> DoneAnswered()
            << CloseSocket(sockfd=7)
        )
    assert f"{caught.value}\n" == shown


@pytest.mark.parametrize("name", testing.__all__)
def test_the_library_for_tests_lists_its_api(name: str) -> None:
    assert getattr(testing, name).__doc__


def test_every_target_that_the_readme_names_is_in_the_makefile() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets
