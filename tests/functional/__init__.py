"""Tests with real servers and real clients."""
