"""The command line: `ktls-agent run` and `ktls-agent demo`."""
