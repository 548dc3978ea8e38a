"""Tests of the protocol layer alone: bytes and strings in, values out; no sockets, no Django."""
