"""RFC 8446 (and its neighbours) from the peer's side: docs/conformance.md says which requirement each test stands for."""
