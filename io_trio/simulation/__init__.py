"""A machine without its kernel: what `ktls-agent demo` and the tests run the agent against."""
