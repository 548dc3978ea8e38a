"""Fuzzing harnesses that feed the protocol layer with hostile input; see README.rst."""
