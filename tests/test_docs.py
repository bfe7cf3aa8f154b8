"""What the documents show is so."""

import ast
import re
from pathlib import Path

import pytest

from ktls_agent.sansio.config import parse_tlshd_conf

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


def test_every_target_that_the_readme_names_is_in_the_makefile() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets
