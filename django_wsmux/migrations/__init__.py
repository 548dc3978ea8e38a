"""The tables of PostgreSQL, and the permissions of the admin's page."""

__all__: list[str] = []
