"""Tests of sockets beside other software: monitoring agents, WSGI middleware, apps.

Each module tests the real software. All servers here serve the application of ``site.py``; the
environment says what is installed into it.
"""
