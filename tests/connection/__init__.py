"""Tests of one socket, independent of its transport."""
