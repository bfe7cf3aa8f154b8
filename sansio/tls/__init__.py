"""The TLS 1.3 handshake: `engine.TlsEngine` is the way in, `parameters` its vocabulary."""
