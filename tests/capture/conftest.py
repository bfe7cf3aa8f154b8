"""What the tests of captures share with others."""

from tests.tls.conftest import shared_data

__all__ = ["shared_data"]
