"""What ``@broadcasts`` declares about a model: where its rows are shown, and what is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from django.db.models import Model
from django.utils.safestring import mark_safe

from ..groups import Group
from . import markup
from .rendering import render

__all__ = ["CHANGES", "FORMATS", "INSERTS", "Place", "Rule", "is_concrete"]

#: What can happen to a row.
CHANGES: Final = ("create", "update", "delete")

#: Whose markup tells where the HTML goes.
FORMATS: Final = ("turbo", "htmx")

#: Where in a list a new row goes, as Turbo and htmx call it.
INSERTS: Final = {"append": "beforeend", "prepend": "afterbegin"}


class Place(NamedTuple):
    """Where a row is shown.

    Attributes:
        name: the group's name.
        prefix: the prefix of that name.
        container: the id of the element that contains the row.
    """

    name: str
    prefix: str
    container: str

    @property
    def group(self) -> Group:
        """The group, with this prefix."""
        return Group.named(self.name).pinned(self.prefix)


@dataclass(frozen=True, eq=False, slots=True)
class Rule:
    """The arguments of one ``@broadcasts``; see there."""

    model: type[Model]
    group: str | Callable[[Any], Group | str | None]
    template: str | None
    on: frozenset[str]
    format: str
    container: str | Callable[[Any], str] | None
    insert: str
    stored: bool
    exclude: Callable[[Any], Any] | None

    @property
    def can_move(self) -> bool:
        """Whether a row may be shown elsewhere after a change."""
        return callable(self.group) or callable(self.container)

    def root(self, kind: type[Model]) -> type[Model]:
        """Return the model that names the rows of a class: its base that is not abstract."""
        bases = (base for base in reversed(kind.__mro__) if issubclass(base, self.model))
        return next(base for base in bases if is_concrete(base))

    def pk(self, instance: Model) -> Any:
        """Return the primary key of a row, in the table of its root, as the database returns it."""
        options: Any = self.root(type(instance))._meta
        value = getattr(instance, options.pk.attname)
        if isinstance(value, tuple):
            return tuple(
                field.to_python(part) for field, part in zip(options.pk_fields, value, strict=True)
            )
        return options.pk.to_python(value)

    def place(self, instance: Model, prefix: str) -> Place | None:
        """Return where a row is shown; ``None`` if it is shown nowhere.

        Args:
            instance: the row.
            prefix: the prefix of the group's name.
        """
        group = self.group(instance) if callable(self.group) else self.group
        if group is None:
            return None
        container = self.container
        if container is None:
            container = f"{self.root(type(instance))._meta.model_name}s"
        elif callable(container):
            container = container(instance)
        name = (group if isinstance(group, Group) else Group(group)).name
        return Place(name, prefix, container)

    def messages(
        self,
        root: type[Model],
        pk: Any,
        instance: Model | None,
        before: Place | None,
        after: Place | None,
    ) -> list[tuple[Group, str]]:
        """Return what is sent, and to which group.

        Args:
            root: the model that names the row.
            pk: its primary key.
            instance: the row; ``None`` if there is none any more.
            before, after: where it was and is shown.
        """
        key = "-".join(map(str, pk)) if isinstance(pk, tuple) else pk
        element = f"{root._meta.model_name}-{key}"
        if before == after:
            changes = [("update", after)]
        else:
            changes = [("delete", before), ("create", after)]
        wanted = [(change, place) for change, place in changes if place and change in self.on]
        html = ""
        if any(change != "delete" for change, _ in wanted):
            html = mark_safe(  # noqa: S308  # rendered by an engine, which escapes
                render(self.template or "", {str(root._meta.model_name): instance})
            )
        return [
            (place.group, self._markup(change, element, place.container, html))
            for change, place in wanted
        ]

    def _markup(self, change: str, element: str, container: str, html: str) -> str:
        is_turbo = self.format == "turbo"
        if change == "create":
            if is_turbo:
                return markup.stream(self.insert, target=container, html=html)
            return markup.out_of_band(html, container, INSERTS[self.insert])
        if change == "update":
            if is_turbo:
                return markup.stream("replace", target=element, html=html)
            return markup.out_of_band(html, element, "outerHTML")
        if is_turbo:
            return markup.stream("remove", target=element)
        return markup.out_of_band("", element, "delete")


def is_concrete(kind: type) -> bool:
    """Return whether a class is a model with a table, or a proxy of one."""
    return issubclass(kind, Model) and kind is not Model and not kind._meta.abstract
