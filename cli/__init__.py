"""The command line: `ktls-agent run`, `demo` and `explain`."""
