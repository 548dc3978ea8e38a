"""Autobahn's cases for RFC 6455 and RFC 7692; see README.rst."""
