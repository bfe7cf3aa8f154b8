"""The command line: `ktls-agent run`, `explain`, `replay` and `demo`."""
