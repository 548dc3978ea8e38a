"""The store of this process, from ``WEBSOCKET_HISTORY_STORE`` or ``WEBSOCKET_BACKEND``."""

from __future__ import annotations

from typing import Final

from .chosen import ChosenStore
from .store import Store

__all__ = ["kind_of", "reset", "store", "store_from_url"]

_chosen: Final[ChosenStore[Store]] = ChosenStore(
    {
        "memory": "memory.MemoryStore",
        "local": "sqlite.SQLiteStore",
        "redis": "redis.RedisStore",
        "rediss": "redis.RedisStore",
        "redis+unix": "redis.RedisStore",
        "redis+sentinel": "redis.RedisStore",
        "rediss+sentinel": "redis.RedisStore",
        "redis+cluster": "redis.RedisStore",
        "rediss+cluster": "redis.RedisStore",
        "postgres": "postgresql.PostgresStore",
    },
    __name__.rpartition(".")[0],
    "keep the history of groups",
)

store = _chosen.store
store_from_url = _chosen.store_from_url
kind_of = _chosen.kind_of
reset = _chosen.reset
