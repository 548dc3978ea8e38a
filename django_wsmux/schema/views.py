"""The views of a URLconf, and the types of their messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.forms import BaseForm
from django.urls import URLPattern, URLResolver, get_resolver

from ..handlers.hints import record_of, result_of
from ..views import WebSocketView
from .fields import Schema, properties_of
from .records import Definitions, type_name

__all__ = ["MessageTypes", "View", "find_views", "types_of"]


@dataclass
class View:
    """A class-based view, and the URL patterns that lead to it.

    Attributes:
        view_class: the class.
        forms, sends: the attributes of that name; ``None`` if the view declares nothing.
        names: names of its URL patterns, with their namespaces.
        routes: the patterns.
    """

    view_class: type[WebSocketView]
    forms: Any
    sends: Any
    names: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The dotted path of the class."""
        return f"{self.view_class.__module__}.{self.view_class.__qualname__}"

    @property
    def words(self) -> list[str]:
        """What selects the view on the command line."""
        return [*self.names, self.view_class.__name__, self.path]


def find_views(urlconf: Any) -> list[View]:
    """Return the class-based views of a URLconf, in the order of their paths."""
    found: dict[tuple[Any, ...], View] = {}
    for name, route, callback in _patterns(get_resolver(urlconf)):
        view_class = getattr(callback, "view_class", None)
        if not (isinstance(view_class, type) and issubclass(view_class, WebSocketView)):
            continue
        options = getattr(callback, "view_initkwargs", {})
        forms = options.get("forms", getattr(view_class, "forms", None)) or None
        sends = options.get("sends", view_class.sends)
        view = found.setdefault((view_class, id(forms), id(sends)), View(view_class, forms, sends))
        view.routes.append(route)
        if name:
            view.names.append(name)
    return sorted(found.values(), key=lambda view: (view.path, view.routes))


def _patterns(
    resolver: URLResolver, spaces: Sequence[str] = (), route: str = ""
) -> Iterator[tuple[str, str, Any]]:
    """Yield name, route and view of each pattern."""
    for each in resolver.url_patterns:
        inner = route + str(each.pattern)
        if isinstance(each, URLPattern):
            name = ":".join([*spaces, each.name]) if each.name else ""
            yield name, inner, each.callback
        else:
            more = [each.namespace] if each.namespace else []
            yield from _patterns(each, [*spaces, *more], inner)


@dataclass
class MessageTypes:
    """The types of the messages of a view.

    Attributes:
        view: the view.
        name: its name in the types; unique.
        sends, receives: schemas by ``type`` of what clients send and receive, without the key
            ``type``; ``None`` if that is not declared.
        replies: schemas of the replies by ``type``.
    """

    view: View
    name: str
    sends: dict[str, Schema] | None
    receives: dict[str, Schema] | None
    replies: dict[str, Schema]


def types_of(views: Iterable[View], definitions: Definitions) -> list[MessageTypes]:
    """Return the types of all messages of views, and add the dataclasses in them.

    Raises:
        TypeError: a return annotation is not supported.
    """
    # The names of views come first, so that they depend on no dataclass.
    named: list[tuple[View, str]] = []
    taken: set[str] = set()
    for view in views:
        wanted, number = type_name(view.view_class), 1
        name = wanted
        while name in taken:
            number += 1
            name = f"{wanted}{number}"
        taken.add(name)
        named.append((view, name))
        for suffix in ("Sends", "Receives", "Replies"):
            definitions.name(name + suffix)
    return [_types_of(view, name, definitions) for view, name in named]


def _types_of(view: View, name: str, definitions: Definitions) -> MessageTypes:
    sends = receives = None
    replies: dict[str, Schema] = {}
    if view.forms is not None:
        sends = {kind: _input(each, definitions) for kind, each in view.forms.items()}
        for kind in view.forms:
            hook = getattr(view.view_class, f"{kind}_valid", None)
            check = result_of(hook or view.view_class.form_valid)  # type: ignore[attr-defined]
            replies[kind] = {} if check is None else definitions.schema_of(check, is_input=False)
    if view.sends is not None:
        receives = {
            kind: _without_type(definitions.fields_of(record_of(each), is_input=False))
            for kind, each in view.sends.items()
        }
    return MessageTypes(view, name, sends, receives, replies)


def _input(described: Any, definitions: Definitions) -> Schema:
    """Return the schema of what clients send for a form or a dataclass."""
    if not issubclass(described, BaseForm):
        return _without_type(definitions.fields_of(record_of(described), is_input=True))
    schema: Schema = {"type": "object", "properties": {}, "required": []}
    for name, each, is_required in properties_of(described):
        schema["properties"][name] = each
        if is_required:
            schema["required"].append(name)
    schema["additionalProperties"] = False
    return schema


def _without_type(schema: Schema) -> Schema:
    schema["properties"].pop("type", None)
    if "type" in schema["required"]:
        schema["required"].remove("type")
    return schema
