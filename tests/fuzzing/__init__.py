"""Harnesses that feed the protocol layer what no peer should send; see README.rst."""
