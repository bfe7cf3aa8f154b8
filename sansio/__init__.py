"""The pure core: bytes, numbers and records in; bytes, events and commands out."""
