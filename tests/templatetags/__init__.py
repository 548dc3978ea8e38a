"""Tests of tags and filters for templates."""
