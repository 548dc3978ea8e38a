"""The store of presence of this process: where the history is, also if no group has one."""

from __future__ import annotations

from typing import Final

from ..history.chosen import ChosenStore
from .store import PresenceStore

__all__ = ["kind_of", "reset", "store", "store_from_url"]

_chosen: Final[ChosenStore[PresenceStore]] = ChosenStore(
    {
        "memory": "memory.MemoryPresence",
        "local": "sqlite.SQLitePresence",
        "redis": "redis.RedisPresence",
        "rediss": "redis.RedisPresence",
        "redis+unix": "redis.RedisPresence",
        "redis+sentinel": "redis.RedisPresence",
        "rediss+sentinel": "redis.RedisPresence",
        "redis+cluster": "redis.RedisPresence",
        "rediss+cluster": "redis.RedisPresence",
        "postgres": "postgresql.PostgresPresence",
    },
    __name__.rpartition(".")[0],
    "keep who is present in groups",
)

store = _chosen.store
store_from_url = _chosen.store_from_url
kind_of = _chosen.kind_of
reset = _chosen.reset
