"""Make the schemas of two tenants, each with a row: run by the tests."""

from __future__ import annotations

import django
from django.db import connection

django.setup()

from django_tenants.utils import schema_context  # noqa: E402

from tests.compat.tenancy.models import Client, Domain, Note  # noqa: E402

with schema_context("public"), connection.schema_editor() as editor:
    editor.create_model(Client)
    editor.create_model(Domain)
for name in ("a", "b"):
    with schema_context("public"):
        tenant = Client.objects.create(schema_name=name)
        Domain.objects.create(domain=f"{name}.localhost", tenant=tenant, is_primary=True)
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE SCHEMA "{name}"')
    with schema_context(name):
        with connection.schema_editor() as editor:
            editor.create_model(Note)
        Note.objects.create(text=f"of {name}")
