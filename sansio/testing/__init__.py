"""Stand-ins for the world outside, for tests and for `ktls-agent demo`."""
