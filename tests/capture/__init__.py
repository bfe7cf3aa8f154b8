"""The executable specification of sansio/tls."""
