"""Recorded requests: transcripts, their replay and explanation, and captures that others made."""
