"""Broadcasts of models: a page that shows a row shows its changes, too.

Receivers are connected to the signals of models with ``@broadcasts``, and of their subclasses and
proxies, only. ``changes`` notes what a transaction has changed and sends it after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, Final, TypeVar

from django.db import router
from django.db.models import Model
from django.db.models.signals import class_prepared, post_save, pre_delete, pre_save

from ..conf import group_prefix
from ..groups import Group
from ..groups.excluding import Exclude
from .changes import UNKNOWN, Before, attempt, find, note, rows_of
from .markup import check_id
from .rules import CHANGES, FORMATS, INSERTS, Rule, is_concrete

__all__ = ["broadcast", "broadcasts"]

AnyModel = TypeVar("AnyModel", bound=type[Model])

_rules: Final[list[Rule]] = []


def broadcasts(
    *,
    group: str | Callable[[Any], Group | str | None],
    template: str | None = None,
    on: Iterable[str] = CHANGES,
    format: str = "turbo",
    container: str | Callable[[Any], str] | None = None,
    insert: str = "append",
    stored: bool = False,
    exclude: Callable[[Any], Exclude] | None = None,
) -> Callable[[AnyModel], AnyModel]:
    """Decorate a model: its rows are sent to a group when they are created, updated or deleted.

    After the commit, each row that the transaction has changed is read, rendered once and sent,
    whatever the number of ``save()`` calls. A row that was created and deleted in one transaction
    is not sent. A row that has moved is removed from the pages of its old group and added to those
    of the new one. In the page, the element of a row has the id ``<model>-<primary key>``, such as
    ``line-5``, and is the root element of the template.

    Subclasses and proxies of the model are sent as well. ``bulk_create()``, ``bulk_update()`` and
    ``update()`` send no signals: call ``broadcast()``. Fixtures are not sent. An error in the
    template or in a function is logged and counted; it does not concern the transaction.

    Args:
        group: the name of the group, or a function that returns the group of a row, or its name;
            ``None`` for a row that is not shown.
        template: the template of a row, which it gets under the name of the model:
            ``"chat/line.html"``; ``"chat/line.html#line"`` is a partial (Django 6). It is rendered
            without a request, in the language that was active at the save.
        on: which changes are sent: ``"create"``, ``"update"``, ``"delete"``.
        format: ``"turbo"`` for ``<turbo-stream>``, ``"htmx"`` for ``hx-swap-oob``.
        container: the id of the element that contains the rows, or a function that returns it for a
            row; by default the name of the model with an "s", such as ``lines``.
        insert: whether a new row is added at the end of the container (``"append"``) or at its
            beginning (``"prepend"``).
        stored: write what is to be sent to the database in the transaction; see ``Group.send()``.
            The template is then rendered at the save, and its errors are raised.
        exclude: a function that returns who does not get a row, as ``exclude`` of
            ``Group.send()``; it is called with the instance that is saved.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Example::

        @broadcasts(group=lambda line: f"room.{line.room_id}", template="chat/line.html")
        class Line(models.Model):
            room = models.ForeignKey(Room, on_delete=models.CASCADE)
            text = models.TextField()
    """
    on = _checked_changes(on)
    _check(group, template, on, format, container, insert, exclude)

    def decorate(model: AnyModel) -> AnyModel:
        if not (isinstance(model, type) and issubclass(model, Model)):
            raise TypeError(f"@broadcasts decorates models, not {model!r}")
        _add(Rule(model, group, template, on, format, container, insert, stored, exclude))
        return model

    return decorate


def broadcast(
    instances: Model | Iterable[Model], *, created: bool = False, exclude: Exclude = None
) -> None:
    """Send rows that were changed without signals, as ``@broadcasts`` of their model says.

    After ``bulk_create()``, ``bulk_update()``, ``update()`` or SQL. The rows are read after the
    commit: rows that are gone are removed from the page. If they may have moved, pass instances
    that were read before the change.

    Args:
        instances: an instance, or several.
        created: whether the rows are new.
        exclude: who does not get them, as for ``Group.send()``; ``None`` for those that the
            argument ``exclude`` of ``@broadcasts`` names.

    Raises:
        TypeError: the model has no ``@broadcasts``.
        ValueError: an instance has no primary key.

    Example::

        lines = Line.objects.bulk_create(lines)
        broadcast(lines, created=True)
    """
    prefix = group_prefix()
    by_alias: dict[str, list[tuple[Rule, Model, Before]]] = {}
    for instance in (instances,) if isinstance(instances, Model) else instances:
        kind = type(instance)
        rules = _rules_of(kind)
        if not rules:
            raise TypeError(f"{kind.__qualname__} has no @broadcasts")
        if instance.pk is None:
            raise ValueError(f"{instance!r} has no primary key: the database did not return it")
        rows = by_alias.setdefault(router.db_for_write(kind, instance=instance), [])
        for rule in rules:
            rows.append((rule, instance, None if created else _place(rule, instance, prefix)))
    for alias, rows in by_alias.items():
        note(alias, rows, exclude=exclude)


# Arguments


def _checked_changes(on: Iterable[str]) -> frozenset[str]:
    if isinstance(on, str):
        raise TypeError(f'on={on!r} is a text: write on=("{on}",)')
    found = frozenset(on)
    if not found or not found <= set(CHANGES):
        raise ValueError(f"on={on!r} must be one or more of {', '.join(CHANGES)}")
    return found


def _check(
    group: Any,
    template: Any,
    on: frozenset[str],
    format: Any,
    container: Any,
    insert: Any,
    exclude: Any,
) -> None:
    """Check the other arguments of ``broadcasts()``.

    Raises:
        TypeError, ValueError: one of them is wrong.
    """
    if isinstance(group, str):
        Group(group)
    elif not callable(group):
        raise TypeError(f"group={group!r} must be a name, or a function that returns it for a row")
    if template is None:
        if on != {"delete"}:
            raise TypeError('template is missing: only on=("delete",) needs none')
    elif not isinstance(template, str):
        raise TypeError(f"template={template!r} must be the name of a template")
    if format not in FORMATS:
        raise ValueError(f"format={format!r} must be one of {', '.join(FORMATS)}")
    if isinstance(container, str):
        check_id(container)
    elif container is not None and not callable(container):
        raise TypeError(f"container={container!r} must be an id, or a function that returns it")
    if insert not in INSERTS:
        raise ValueError(f"insert={insert!r} must be one of {', '.join(INSERTS)}")
    if exclude is not None and not callable(exclude):
        raise TypeError(
            f"exclude={exclude!r} must be a function that returns who does not get a row"
        )


# Rules and signals


def _add(rule: Rule) -> None:
    _rules.append(rule)
    _rules_of.cache_clear()
    for kind in _family(rule.model):
        _connect(kind)
    class_prepared.connect(_class_prepared)


def _family(kind: type[Model]) -> Iterator[type[Model]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _family(each)


def _class_prepared(sender: type[Model], **rest: Any) -> None:
    if any(issubclass(sender, rule.model) for rule in _rules):
        _connect(sender)


def _connect(kind: type[Model]) -> None:
    if is_concrete(kind):
        pre_save.connect(_before_save, sender=kind)
        post_save.connect(_after_save, sender=kind)
        pre_delete.connect(_before_delete, sender=kind)


@cache
def _rules_of(kind: type[Model]) -> tuple[Rule, ...]:
    return tuple(rule for rule in _rules if issubclass(kind, rule.model))


def _place(rule: Rule, instance: Model, prefix: str) -> Before:
    found: Before = attempt(rule, UNKNOWN, partial(rule.place, instance, prefix))
    return found


def _before_save(sender: type[Model], instance: Any, raw: bool, using: str, **rest: Any) -> None:
    """Note where a row is shown, unless its place never changes or is noted already.

    The places are kept in the instance's state until the row is saved.
    """
    if raw:
        return
    batch = find(using)
    changes = () if batch is None else batch.changes
    places: dict[Rule, Before] = {}
    rows: dict[type[Model], Model | None] = {}
    prefix = group_prefix()
    for rule in _rules_of(sender):
        # A row of a subclass may extend one of its root.
        kind = _table(rule.root(sender))
        pk = instance.pk if rule.pk(instance) is None else rule.pk(instance)
        if (rule, pk) in changes or not (rule.can_move or kind is not _table(sender)):
            continue
        if kind not in rows:
            rows[kind] = _row(instance, kind, using, pk)
        row = rows[kind]
        if row is not None:
            places[rule] = _place(rule, row, prefix)
    instance._state.broadcast_before = places


def _table(kind: type[Model]) -> Any:
    """Return the model with the table of a model, which may be a proxy."""
    return kind._meta.concrete_model


def _row(instance: Model, kind: type[Model], using: str, pk: Any) -> Model | None:
    """Return a row as it is before an instance is saved; ``None`` if there is none.

    Args:
        instance: the instance.
        kind: the model with the table of its root.
        using: the database.
        pk: the primary key in that table.
    """
    # Django inserts a new instance whose key has a default, without trying to update.
    if pk is None or (instance._state.adding and kind._meta.pk.has_default()):
        return None
    sender = type(instance)
    for each in (sender,) if kind is _table(sender) else (sender, kind):
        for row in rows_of(each, kind, using, [pk]):
            found: Model = row
            return found
    return None


def _after_save(
    sender: type[Model], instance: Any, created: bool, raw: bool, using: str, **rest: Any
) -> None:
    """Note that a row was saved."""
    if raw:
        return
    places = instance._state.__dict__.pop("broadcast_before", {})
    prefix = group_prefix()
    rows: list[tuple[Rule, Model, Before]] = []
    for rule in _rules_of(sender):
        before: Before = None
        if rule in places:
            before = places[rule]
        elif not created:
            before = UNKNOWN if rule.can_move else _place(rule, instance, prefix)
        rows.append((rule, instance, before))
    note(using, rows)


def _before_delete(
    sender: type[Model], instance: Any, using: str, origin: Any = None, **rest: Any
) -> None:
    """Note that a row is being deleted; a part of its rows in tables of subclasses may remain."""
    rules = _rules_of(sender)
    row = instance
    if origin is instance and any(rule.can_move for rule in rules):
        # Its fields may differ from the row's. Other instances were read to be deleted.
        row = next(iter(rows_of(sender, sender, using, [instance.pk])), instance)
    prefix = group_prefix()
    rows = [(rule, instance, _place(rule, row, prefix)) for rule in rules]
    note(using, rows, are_deleted=True)
