"""The protocol layer alone: bytes and strings in, values out; no socket, no gevent, no Django."""
