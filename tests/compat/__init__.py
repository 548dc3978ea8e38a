"""Other software beside sockets: monitoring agents, WSGI middleware, apps.

One module for each, with the real thing. ``site.py`` is the application of all servers here; the
environment says what is installed into it.
"""
