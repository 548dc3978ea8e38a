"""Tests of what operators see of sockets."""
