"""A project of two tenants, each with a schema of its own: django-tenants."""
