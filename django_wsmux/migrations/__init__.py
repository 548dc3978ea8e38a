"""The table of the PostgreSQL backend, and the permissions of the admin's page."""

__all__: list[str] = []
