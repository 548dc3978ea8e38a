"""The page without any WebSockets: what the dispatcher costs is the difference."""

from django_site import configure

configure()

from django.core.wsgi import get_wsgi_application  # noqa: E402

__all__ = ["application"]

application = get_wsgi_application()
