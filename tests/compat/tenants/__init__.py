"""A project of two tenants, each with its own schema: django-tenants."""
