"""The table for messages that are too large for a PostgreSQL notification."""

import django.db.models.functions.datetime
from django.db import migrations, models

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Create the table."""

    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Payload",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "created",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), db_index=True
                    ),
                ),
                ("data", models.BinaryField()),
            ],
        ),
    ]
