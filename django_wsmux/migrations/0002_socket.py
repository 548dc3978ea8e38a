"""What the admin's page is called by, and the permission to view it. There is no table."""

from django.db import migrations, models

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Make it known."""

    dependencies = [("django_wsmux", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Socket",
            fields=[("id", models.BigAutoField(primary_key=True, serialize=False))],
            options={"managed": False, "default_permissions": ("view",)},
        ),
    ]
