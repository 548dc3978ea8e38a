"""Creates the database of ``deploy_site`` with some users, and prints a session key for each."""

import sys

import django
from deploy_settings import use

use()
django.setup()

from datetime import timedelta  # noqa: E402

from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402
from django.contrib.auth.hashers import make_password  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.contrib.sessions.models import Session  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.utils import timezone  # noqa: E402

call_command("migrate", verbosity=0)
password = make_password("secret")
names = (f"user{number}" for number in range(int(sys.argv[1])))
User.objects.bulk_create([User(username=name, password=password) for name in names])
store = SessionStore()
sessions = []
for user in User.objects.all():
    content = {
        SESSION_KEY: str(user.pk),
        BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend",
        HASH_SESSION_KEY: user.get_session_auth_hash(),
    }
    session = Session(
        session_key=f"{user.pk:032}",
        session_data=store.encode(content),
        expire_date=timezone.now() + timedelta(days=1),
    )
    sessions.append(session)
Session.objects.bulk_create(sessions)
print("\n".join(session.session_key for session in sessions))
