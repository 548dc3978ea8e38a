"""Tests of groups across processes."""
