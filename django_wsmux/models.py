"""Models for PostgreSQL, for the outbox, and for the admin's page.

Only ``postgres://`` writes rows of ``Payload``, ``Stream``, ``Message``, ``Key`` and
``Present...``, with its own statements (``backends.postgresql``, ``history.postgresql``,
``presence.postgresql``). In other databases these tables are empty.
"""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

__all__ = [
    "Key",
    "Message",
    "Outbox",
    "Payload",
    "PresentConnection",
    "PresentGroup",
    "PresentKey",
    "PresentLeft",
    "PresentProcess",
    "Socket",
    "Stream",
]


class Payload(models.Model):
    """A publication that is too large for a notification; it is kept for a minute."""

    id = models.BigAutoField(primary_key=True)
    created = models.DateTimeField(db_default=Now(), db_index=True)
    data = models.BinaryField()

    def __str__(self) -> str:
        return f"{len(self.data)} bytes of {self.created}"


class Stream(models.Model):
    """A group with a history.

    Attributes:
        id: a digest of the namespace and the name.
        namespace: a digest of the project's namespace.
        name: UTF-8 with surrogates; a name may be any text.
        layout: the layout of the row and of its messages; see ``history.store.LAYOUT``.
        incarnation: the server's, when the epoch began.
        moment: when the epoch began, in microseconds since 1970.
        epoch: ``incarnation`` and ``moment`` as text; see ``protocol.positions``.
        is_forgotten: whether the epoch began with ``Group.forget()``.
        top: number of the newest message; 0 if there is none.
        size: bytes of all messages of the epoch.
        sent: when the newest message was stored, or the epoch began.
        xact: the transaction that began the epoch, or deleted the newest message.
    """

    id = models.UUIDField(primary_key=True)
    namespace = models.CharField(max_length=20)
    name = models.BinaryField()
    layout = models.SmallIntegerField()
    incarnation = models.CharField(max_length=24)
    moment = models.BigIntegerField()
    epoch = models.CharField(max_length=40)
    is_forgotten = models.BooleanField()
    top = models.BigIntegerField()
    size = models.BigIntegerField()
    sent = models.DateTimeField()
    xact = models.BigIntegerField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{bytes(self.name)!r} at {self.epoch}-{self.top}"


class Message(models.Model):
    """A message of a history.

    Attributes:
        stream, moment: the group, and when the epoch began. Messages of older epochs are no longer
            read.
        number: the offset in the epoch, from 1.
        size: bytes of the messages of the epoch up to this one.
        sent: when it was stored.
        expires: when it may be deleted.
        xact: the transaction that stored it.
        data: the envelope without its position (``groups.envelope``).
    """

    pk = models.CompositePrimaryKey("stream", "moment", "number")
    stream = models.UUIDField()
    moment = models.BigIntegerField()
    number = models.BigIntegerField()
    size = models.BigIntegerField()
    sent = models.DateTimeField()
    expires = models.DateTimeField()
    xact = models.BigIntegerField(db_index=True)
    data = models.BinaryField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"message {self.number} of {self.stream}"


class Key(models.Model):
    """A key of ``Group.send(key=...)``, which prevents a second message.

    Attributes:
        id: a digest of namespace, group and key.
        stream: the group.
        expires: when the key may be used again.
    """

    id = models.UUIDField(primary_key=True)
    stream = models.UUIDField()
    expires = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"a key of {self.stream} until {self.expires}"


class PresentGroup(models.Model):
    """A group in which someone is present, or was a minute ago.

    Attributes:
        id: a digest of the namespace and the name.
        namespace: a digest of the project's namespace.
        name: UTF-8 with surrogates; a name may be any text.
        layout: the layout of the rows of the group.
        incarnation: the server's, when the epoch began; see ``history.incarnation``.
        epoch: the epoch of the versions.
        number: the number of the last change.
        floor: the number of the last leaving that is no longer remembered.
    """

    id = models.UUIDField(primary_key=True)
    namespace = models.CharField(max_length=20)
    name = models.BinaryField()
    layout = models.SmallIntegerField()
    incarnation = models.CharField(max_length=24)
    epoch = models.CharField(max_length=60)
    number = models.BigIntegerField()
    floor = models.BigIntegerField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{bytes(self.name)!r} at {self.epoch}.{self.number}"


class PresentKey(models.Model):
    """A key that is present in a group: who is there.

    Attributes:
        id: a digest of the group and the key.
        group: the group.
        name: the key, in UTF-8.
        info: what others see of it, as JSON.
        joined: the number of the change with which it joined.
        changed: the number of the change with which it joined or got another ``info``.
        since: when it joined.
    """

    id = models.UUIDField(primary_key=True)
    group = models.UUIDField()
    name = models.BinaryField()
    info = models.BinaryField()
    joined = models.BigIntegerField()
    changed = models.BigIntegerField()
    since = models.DateTimeField()

    class Meta:
        default_permissions = ()
        indexes = (models.Index(fields=["group", "changed"], name="django_wsmux_present_changed"),)

    def __str__(self) -> str:
        return f"{bytes(self.name)!r} in {self.group}"


class PresentConnection(models.Model):
    """A connection that is present in a group.

    Attributes:
        id: a digest of the group and the id of the connection.
        group: the group.
        key: its ``PresentKey``.
        process: the id of its ``PresentProcess``.
    """

    id = models.UUIDField(primary_key=True)
    group = models.UUIDField()
    key = models.UUIDField(db_index=True)
    process = models.BigIntegerField()

    class Meta:
        default_permissions = ()
        indexes = (models.Index(fields=["process", "group"], name="django_wsmux_present_process"),)

    def __str__(self) -> str:
        return f"a connection of {self.key} in {self.group}"


class PresentLeft(models.Model):
    """A key that has left a group; it is remembered for a minute.

    Attributes:
        group: the group.
        number: the number of the change with which it left.
        key, name, joined: of its ``PresentKey``.
        moment: when it left.
    """

    pk = models.CompositePrimaryKey("group", "number")
    group = models.UUIDField()
    number = models.BigIntegerField()
    key = models.UUIDField()
    name = models.BinaryField()
    joined = models.BigIntegerField()
    moment = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{bytes(self.name)!r} left {self.group}"


class PresentProcess(models.Model):
    """One life of a process with connections that are present.

    Attributes:
        namespace: a digest of the project's namespace.
        process: a digest of the namespace and the id of the process.
        incarnation: the server's, when the life began; ``""`` when the life has ended.
        seen: the last sign of life.
    """

    id = models.BigAutoField(primary_key=True)
    namespace = models.CharField(max_length=20, db_index=True)
    process = models.UUIDField(db_index=True)
    incarnation = models.CharField(max_length=24)
    seen = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.process}, seen at {self.seen}"


class Socket(models.Model):
    """Open sockets in the admin: an entry in its index, and a permission for each action.

    It has no table. Instances stand for sockets in the log of the admin.
    """

    #: What the log says.
    label = ""

    id = models.BigAutoField(primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (
            ("close_socket", "Can close sockets"),
            ("sign_out_user", "Can sign users out"),
            ("send_to_group", "Can send to groups"),
        )

    def __str__(self) -> str:
        return self.label


class Outbox(models.Model):
    """A message of ``Group.send(..., stored=True)`` that is not sent yet; see ``groups.outbox``.

    Attributes:
        group: identifies the group: a hash, because databases compare texts by their own rules.
        key: the key that makes the store of the history drop a repeated message.
        envelope: the message and its group; see ``groups.envelope``.
    """

    id = models.BigAutoField(primary_key=True)
    group = models.BigIntegerField()
    key = models.CharField(max_length=200)
    envelope = models.BinaryField()

    class Meta:
        default_permissions = ()
        indexes = (models.Index(fields=["group", "id"], name="django_wsmux_outbox_group"),)

    def __str__(self) -> str:
        return f"message {self.pk}, {len(self.envelope)} bytes"
