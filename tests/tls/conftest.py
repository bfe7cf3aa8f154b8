"""Data of other projects, which lies beside the checkout and is not part of it."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with RFC 8448's traces and the seeds; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("KTLS_AGENT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data of other projects in {folder}; set KTLS_AGENT_DATA to where it is")
    return folder
