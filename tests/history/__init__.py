"""Tests of the stores that number and keep the messages of groups."""
