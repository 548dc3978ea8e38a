"""Tests of ``django_wsmux.test``: sockets tested in-process."""
