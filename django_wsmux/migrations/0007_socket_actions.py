"""The permissions to sign users out and to send to groups on the admin's page."""

from django.db import migrations

__all__ = ["Migration"]


class Migration(migrations.Migration):
    """Add the permissions."""

    dependencies = [("django_wsmux", "0006_presence")]

    operations = [
        migrations.AlterModelOptions(
            name="socket",
            options={
                "managed": False,
                "default_permissions": ("view",),
                "permissions": (
                    ("close_socket", "Can close sockets"),
                    ("sign_out_user", "Can sign users out"),
                    ("send_to_group", "Can send to groups"),
                ),
            },
        ),
    ]
