"""A site of django-tenants, with a schema for each tenant."""
