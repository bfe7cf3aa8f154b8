"""The Trio side: sockets, keyrings, files, signals and time around `ktls_agent.sansio`."""
