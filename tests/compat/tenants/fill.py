"""Creates the schemas of the tenants, with the same primary keys and different names."""

from __future__ import annotations

import django
from django.core.management import call_command

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django_tenants.utils import schema_context  # noqa: E402

from tests.compat.tenants.models import Client, Domain  # noqa: E402

call_command("migrate_schemas", shared=True, run_syncdb=True, interactive=False, verbosity=0)
for name in ("public", "acme", "globex"):
    client = Client(schema_name=name, name=name)
    client.save(verbosity=0)
    Domain.objects.create(domain=f"{name}.localhost", tenant=client, is_primary=True)
    if name != "public":
        with schema_context(name):
            User.objects.create_user("ann", pk=7, password="x", last_name=f"of {name}")
            User.objects.create_user("bob", pk=8, password="x")
