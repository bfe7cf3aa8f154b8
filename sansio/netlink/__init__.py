"""The netlink family `handshake`: its tables, its codec, and the client that matches answers."""
