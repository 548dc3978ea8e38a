"""The permission to close sockets on the admin's page."""

from django.db import migrations

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Add the permission."""

    dependencies = [("django_wsmux", "0002_socket")]

    operations = [
        migrations.AlterModelOptions(
            name="socket",
            options={
                "managed": False,
                "default_permissions": ("view",),
                "permissions": (("close_socket", "Can close sockets"),),
            },
        ),
    ]
