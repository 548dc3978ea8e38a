"""The tables of who is present in groups in PostgreSQL; they stay empty in other databases."""

from django.db import migrations, models

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Create the tables."""

    dependencies = [
        ("django_wsmux", "0005_outbox"),
    ]

    operations = [
        migrations.CreateModel(
            name="PresentGroup",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("namespace", models.CharField(max_length=20)),
                ("name", models.BinaryField()),
                ("layout", models.SmallIntegerField()),
                ("incarnation", models.CharField(max_length=24)),
                ("epoch", models.CharField(max_length=60)),
                ("number", models.BigIntegerField()),
                ("floor", models.BigIntegerField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="PresentLeft",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "group",
                        "number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("group", models.UUIDField()),
                ("number", models.BigIntegerField()),
                ("key", models.UUIDField()),
                ("name", models.BinaryField()),
                ("joined", models.BigIntegerField()),
                ("moment", models.DateTimeField(db_index=True)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="PresentProcess",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("namespace", models.CharField(db_index=True, max_length=20)),
                ("process", models.UUIDField(db_index=True)),
                ("incarnation", models.CharField(max_length=24)),
                ("seen", models.DateTimeField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="PresentConnection",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("group", models.UUIDField()),
                ("key", models.UUIDField(db_index=True)),
                ("process", models.BigIntegerField()),
            ],
            options={
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["process", "group"], name="django_wsmux_present_process")
                ],
            },
        ),
        migrations.CreateModel(
            name="PresentKey",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("group", models.UUIDField()),
                ("name", models.BinaryField()),
                ("info", models.BinaryField()),
                ("joined", models.BigIntegerField()),
                ("changed", models.BigIntegerField()),
                ("since", models.DateTimeField()),
            ],
            options={
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["group", "changed"], name="django_wsmux_present_changed")
                ],
            },
        ),
    ]
