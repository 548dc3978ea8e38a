"""Tests of the commands, run in processes of their own."""
