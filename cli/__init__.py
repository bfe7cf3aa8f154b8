"""The command line: `ktls-agent run`, `replay`, `explain` and `demo`."""
