"""Settings for all tests, and the data of other projects, which lies beside the checkout and is not part of it."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]

# How long an example takes says something about the machine and its other work, and nothing about the code: bounds of
# time are shown by bounds of work.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with RFC 8448's traces and the seeds; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("KTLS_AGENT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data of other projects in {folder}; set KTLS_AGENT_DATA to where it is")
    return folder
