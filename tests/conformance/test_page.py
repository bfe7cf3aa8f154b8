"""The page of requirements and the tests hold each other."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = (FOLDER.parents[1] / "docs" / "conformance.md").read_text(encoding="utf-8")


def defined() -> set[str]:
    return {
        f"{path.name}::{node.name}"
        for path in FOLDER.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def named() -> set[str]:
    return set(re.findall(r"`(test_\w+\.py::test_\w+)`", PAGE))


def test_every_test_that_the_page_names_is_there() -> None:
    assert named() - defined() == set()


def test_every_test_about_a_peer_is_on_the_page() -> None:
    others = {"test_page.py", "test_seeds.py"}
    about_peers = {name for name in defined() if name.split("::")[0] not in others}
    missing = about_peers - named()
    assert missing == {
        "test_order.py::test_the_table_of_messages_has_every_type",
        "test_authentication.py::test_a_request_of_any_form_does_not_surprise_a_client_without_a_certificate",
    }


def test_every_row_has_a_test() -> None:
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| RFC 8446 |"))
    ]
    assert len(rows) > 60
    assert [row for row in rows if "::test_" not in row] == []
