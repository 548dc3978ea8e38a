"""Sockets tested in-process, by the tools that the package gives to its users."""
