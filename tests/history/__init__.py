"""Tests of what numbers and keeps the messages of groups."""
