"""Tests of the stores of who is present in groups."""
