"""Backends: they carry group messages between processes.

``from_url()`` creates a backend; ``base`` defines the interface, ``contract`` has its tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from ..exceptions import BackendMisconfigured, BackendUnavailable
from .base import Backend
from .outages import Counts, Gap
from .request_reply import Replies

__all__ = [
    "SCHEMES",
    "Backend",
    "BackendMisconfigured",
    "BackendUnavailable",
    "Counts",
    "Gap",
    "Replies",
    "from_url",
    "take_namespace",
]

#: The backend class for each URL scheme; imported when it is used.
SCHEMES: Final = {
    "local": "django_wsmux.backends.local.LocalBackend",
    "redis": "django_wsmux.backends.redis.RedisBackend",
    "rediss": "django_wsmux.backends.redis.RedisBackend",
    "redis+unix": "django_wsmux.backends.redis.RedisBackend",
    "redis+sentinel": "django_wsmux.backends.redis.RedisBackend",
    "rediss+sentinel": "django_wsmux.backends.redis.RedisBackend",
    "redis+cluster": "django_wsmux.backends.redis.RedisBackend",
    "rediss+cluster": "django_wsmux.backends.redis.RedisBackend",
    "postgres": "django_wsmux.backends.postgresql.PostgresBackend",
}

#: The extra to install for a missing library.
_EXTRAS: Final = {"redis": "redis", "psycopg": "postgres"}


def from_url(url: str, *, namespace: str = "") -> Backend:
    """Create the backend for a URL. It does not connect yet.

    Args:
        url: ``local://``, ``redis://host:6379/0``, ``postgres://?using=default`` and so on, or the
            dotted path of your own class: ``mysite.nats.NatsBackend://host``. ``?namespace=`` in it
            takes precedence over the argument.
        namespace: names the project; see ``Backend``.

    Raises:
        ValueError: the backend does not exist, or a library that it needs is missing.
    """
    scheme, separator, _ = url.partition("://")
    path = SCHEMES.get(scheme, scheme if "." in scheme else "")
    if not separator or not path:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(
            f"unknown backend {scheme!r}: use {known} or the dotted path of a class, "
            f'such as "mysite.backends.MyBackend://"'
        )
    module, _, name = path.rpartition(".")
    try:
        backend_class = getattr(import_module(module), name)
    except ImportError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        advice = f': pip install "django-wsmux[{extra}]"' if extra else ""
        raise ValueError(f"{scheme}:// cannot be used, {error}{advice}") from error
    except AttributeError as error:
        raise ValueError(f"{scheme}:// cannot be used: {error}") from error
    if not (isinstance(backend_class, type) and issubclass(backend_class, Backend)):
        raise ValueError(f"{path} is not a subclass of {Backend.__module__}.Backend")
    url, named = take_namespace(url)
    return backend_class(url, namespace=namespace if named is None else named)


def take_namespace(url: str) -> tuple[str, str | None]:
    """Remove ``namespace`` from a URL's query, which may be passed to a library.

    Returns:
        The rest of the URL, and the namespace or ``None``.
    """
    query = urlsplit(url).query
    options = parse_qsl(query, keep_blank_values=True)
    named = dict(options).get("namespace")
    if named is None:
        return url, None
    rest = urlencode([option for option in options if option[0] != "namespace"])
    return url.replace(f"?{query}", f"?{rest}" if rest else ""), named
