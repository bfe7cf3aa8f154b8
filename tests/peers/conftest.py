"""Files that the live peers read, written once for each run."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.peers.live import Files, write_files
from tests.pki import KeyType
from tests.tls.handshakes import SERVER_NAME, issued

GetFiles = Callable[[KeyType, str], Files]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> GetFiles:
    """Certificate, key and authority by key type and name."""
    folder: Path = tmp_path_factory.mktemp("peers")

    @cache
    def get(key_type: KeyType = "p256", name: str = SERVER_NAME) -> Files:
        return write_files(folder, issued(key_type, name))

    return get
