"""What a transaction has changed, row by row.

Before the first change of a row in a transaction, the place where it is shown is noted. After the
commit the row is read once, and the two are compared: a row that is new enters its place, one that
is gone leaves it, one that has moved does both. So it does not matter how often, how and in which
order the row was saved, nor which of its fields: what was committed is sent.

Each save and deletion registers a callback for the commit. A savepoint that is rolled back drops
its callbacks, so a row that was changed only there is not sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

from django.db import DatabaseError, connections, transaction
from django.db.models import Model

from ..conf import group_prefix
from ..groups import Group
from .rendering import active
from .rules import Place, Rule
from .sending import report

__all__ = ["UNKNOWN", "Batch", "Before", "Change", "attempt", "find", "note", "rows_of"]

#: How many rows are read together.
_MOST: Final = 500


class _Unknown:
    """The place of a row whose place could not be determined."""


UNKNOWN: Final = _Unknown()

#: Where a row was shown before a transaction; ``None`` if it was not.
Before = Place | None | _Unknown


class Batch:
    """The rows that one transaction has changed.

    Args:
        alias: the database.

    Attributes:
        changes: by rule and primary key.
        is_sent: whether the transaction has committed.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.changes: dict[tuple[Rule, Any], Change] = {}
        self._fresh: dict[tuple[Rule, Any], Model] | None = None
        self.is_sent = False

    def change(self, rule: Rule, instance: Model, before: Before) -> Change:
        """Return the change of a row.

        Args:
            rule: the rule.
            instance: the row.
            before: where it was shown; ignored if the transaction has changed it already.
        """
        pk = rule.pk(instance)
        found = self.changes.get((rule, pk))
        if found is None:
            found = Change(self, rule, rule.root(type(instance)), pk, before)
            self.changes[rule, pk] = found
        return found

    def fresh(self, rule: Rule, pk: Any) -> Model | None:
        """Return a row as it was committed; ``None`` if it does not exist.

        The first call reads all rows.
        """
        if self._fresh is None:
            self._fresh = dict(self._read())
        return self._fresh.get((rule, pk))

    def _read(self) -> Iterator[tuple[tuple[Rule, Any], Model]]:
        kinds: dict[tuple[type[Model], type[Model]], dict[Any, list[Rule]]] = {}
        for (rule, pk), change in self.changes.items():
            if not rule.stored:
                rows = kinds.setdefault((change.kind, change.root), {})
                rows.setdefault(pk, []).append(rule)
        for (kind, root), rows in kinds.items():
            pks = list(rows)
            for start in range(0, len(pks), _MOST):
                for row in rows_of(kind, root, self.alias, pks[start : start + _MOST]):
                    pk = getattr(row, root._meta.pk.attname)
                    for rule in rows[pk]:
                        yield (rule, pk), row


class Change:
    """What a transaction has done to a row, as far as one rule is concerned.

    Args:
        batch: the transaction's changes.
        rule: the rule.
        root: the model that names the row.
        pk: its primary key.
        before: where it was shown before.

    Attributes:
        kind: the class to read it with.
        exclude: the sockets and clients that do not get what is sent.
    """

    def __init__(
        self, batch: Batch, rule: Rule, root: type[Model], pk: Any, before: Before
    ) -> None:
        self.batch = batch
        self.rule = rule
        self.root = root
        self.kind = root
        self.pk = pk
        self.before = before
        self.exclude: Any = None
        self._prefix = ""
        self._is_sent = False
        # Groups and keys of messages in the outbox.
        self._stored: list[tuple[Group, str]] = []

    def __str__(self) -> str:
        return f"{self.root._meta.label} {self.pk}"

    def update(self, kind: type[Model], exclude: Any, prefix: str) -> None:
        """Note a change.

        Args:
            kind: the class to read the row with.
            exclude: the sockets and clients that do not get it.
            prefix: the prefix of groups.
        """
        self.kind = kind
        self.exclude = exclude
        self._prefix = prefix
        self._call: Callable[[Callable[[], None]], None] = active()

    def send(self) -> None:
        """Send what has become of the row; called after the commit, for each of its changes."""
        self.batch.is_sent = True
        if self._is_sent or self.rule.stored:
            return
        self._is_sent = True
        try:
            self._call(self._send)
        except Exception as error:
            report(self, error)

    def _send(self) -> None:
        row = self.batch.fresh(self.rule, self.pk)
        for group, html in self._messages(row):
            group.send_html(html, exclude=self.exclude, fail_silently=True)

    def store(self, *, is_deleted: bool) -> None:
        """Write messages to the outbox, instead of those of earlier changes in the transaction.

        Args:
            is_deleted: whether the row is being deleted.
        """
        from ..groups.outbox import discard

        alias = self.batch.alias
        rows = [] if is_deleted else rows_of(self.kind, self.root, alias, [self.pk])
        messages = self._messages(next(iter(rows), None))
        for group, key in self._stored:
            discard(group.key(), key, using=alias)
        for group, html in messages:
            key = secrets.token_urlsafe(16)
            group.send_html(html, exclude=self.exclude, on_commit=alias, stored=True, key=key)
            # A savepoint may be rolled back, so earlier keys are kept.
            self._stored.append((group, key))

    def _messages(self, row: Model | None) -> list[tuple[Group, str]]:
        after = None if row is None else self.rule.place(row, self._prefix)
        before = after if isinstance(self.before, _Unknown) else self.before
        return self.rule.messages(self.root, self.pk, row, before, after)


def rows_of(kind: type[Model], root: type[Model], alias: str, pks: list[Any]) -> Any:
    """Return the rows with some primary keys.

    Args:
        kind: the class of the rows.
        root: the class with the primary key.
        alias: the database.
        pks: the keys.
    """
    return kind._base_manager.using(alias).filter(**{f"{root._meta.pk.name}__in": pks})


def find(alias: str) -> Batch | None:
    """Return the changes of the current transaction; ``None`` if there are none yet."""
    for _, function, *_ in reversed(connections[alias].run_on_commit):
        change = getattr(function, "__self__", None)
        if isinstance(change, Change) and not change.batch.is_sent:
            return change.batch
    return None


def note(
    alias: str,
    rows: Iterable[tuple[Rule, Model, Before]],
    *,
    exclude: Any = None,
    are_deleted: bool = False,
) -> None:
    """Note that rows were changed, or are being deleted.

    Args:
        alias: the database.
        rows: rules, the rows that they concern, and where these were shown before.
        exclude: the sockets and clients that do not get what is sent; ``None`` for those that the
            rule names.
        are_deleted: whether the rows are being deleted.
    """
    batch = find(alias) or Batch(alias)
    prefix = group_prefix()
    changed = []
    for rule, instance, before in rows:
        change = batch.change(rule, instance, before)
        without = exclude
        if without is None and rule.exclude is not None:
            without = attempt(rule, None, partial(rule.exclude, instance))
        change.update(change.root if are_deleted else type(instance), without, prefix)
        changed.append(change)
    # Outside of a transaction, this sends them at once.
    for change in changed:
        if change.rule.stored:
            change.store(is_deleted=are_deleted)
        transaction.on_commit(change.send, using=alias, robust=True)


def attempt(rule: Rule, default: Any, function: Callable[[], Any]) -> Any:
    """Call a function of a rule; if it fails, log and count that, and return a default value.

    What is shown to others must not keep a row from being saved.

    Args:
        rule: the rule. If its messages are stored with the row, the error is raised, and so is an
            error of the database, which may have ended the transaction.
        default: the value.
        function: the function.
    """
    try:
        return function()
    except Exception as error:
        if rule.stored or isinstance(error, DatabaseError):
            raise
        report(rule.model._meta.label, error)
        return default
