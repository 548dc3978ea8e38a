"""Tests of the commands, run in their own processes."""
