"""``{% code %}``: shows the code behind a page, beside it."""

import inspect
from pathlib import Path

from django import template
from django.contrib.staticfiles import finders
from django.utils.module_loading import import_string

__all__ = ["code", "register"]

register = template.Library()


@register.inclusion_tag("sample_site/code.html")
def code(*names: str) -> dict[str, list[tuple[str, str]]]:
    """Show functions, classes and static files.

    Args:
        names: names in the package, such as ``sockets.Chat``, and files, such as ``chat.js``.

    Example::

        {% code "views.chat_page" "sockets.Chat" "chat.js" %}
    """
    return {"parts": [source(name) for name in names]}


def source(name: str) -> tuple[str, str]:
    """Return the name of a file, and the code in it that belongs to a name."""
    if name.endswith(".js"):
        path = finders.find(f"sample_site/{name}")
        assert path is not None
        return name, Path(path).read_text()
    part = inspect.unwrap(import_string(f"sample_site.{name}"))
    return f"{name.partition('.')[0]}.py", inspect.getsource(part)
