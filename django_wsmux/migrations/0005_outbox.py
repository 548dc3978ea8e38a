"""The table of ``Group.send(..., stored=True)``."""

from django.db import migrations, models

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Create the table."""

    dependencies = [("django_wsmux", "0004_history")]

    operations = [
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("group", models.BigIntegerField()),
                ("key", models.CharField(max_length=200)),
                ("envelope", models.BinaryField()),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(fields=["group", "id"], name="django_wsmux_outbox_group")],
            },
        ),
    ]
