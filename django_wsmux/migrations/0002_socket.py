"""The model of the admin's page, and the permission to view it; it has no table."""

from django.db import migrations, models

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Add the model."""

    dependencies = [("django_wsmux", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Socket",
            fields=[("id", models.BigAutoField(primary_key=True, serialize=False))],
            options={"managed": False, "default_permissions": ("view",)},
        ),
    ]
