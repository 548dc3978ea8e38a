"""The tables of histories in PostgreSQL; they stay empty in other databases."""

from django.db import migrations, models

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Create the tables."""

    dependencies = [("django_wsmux", "0003_close_socket")]

    operations = [
        migrations.CreateModel(
            name="Stream",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("namespace", models.CharField(max_length=20)),
                ("name", models.BinaryField()),
                ("layout", models.SmallIntegerField()),
                ("incarnation", models.CharField(max_length=24)),
                ("moment", models.BigIntegerField()),
                ("epoch", models.CharField(max_length=40)),
                ("is_forgotten", models.BooleanField()),
                ("top", models.BigIntegerField()),
                ("size", models.BigIntegerField()),
                ("sent", models.DateTimeField()),
                ("xact", models.BigIntegerField(db_index=True)),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="Message",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "stream",
                        "moment",
                        "number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("stream", models.UUIDField()),
                ("moment", models.BigIntegerField()),
                ("number", models.BigIntegerField()),
                ("size", models.BigIntegerField()),
                ("sent", models.DateTimeField()),
                ("expires", models.DateTimeField()),
                ("xact", models.BigIntegerField(db_index=True)),
                ("data", models.BinaryField()),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="Key",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("stream", models.UUIDField()),
                ("expires", models.DateTimeField()),
            ],
            options={"default_permissions": ()},
        ),
    ]
