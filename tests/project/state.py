"""What the views remember between requests, within one process."""

#: Requests that are inside the middleware chain right now.
inside = 0

#: What sockets reported at their end, by key.
reports: dict[str, str] = {}
