"""Tests of the authentication of handshakes."""
