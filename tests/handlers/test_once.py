"""Requests that run at most once, in several processes, with real caches."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings
from django.urls import path
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from django_wsmux.connection.counters import counters
from django_wsmux.handlers import once
from django_wsmux.requests import Request
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.testing.client import close_all
from django_wsmux.views import JSONWebSocketView
from tests.conftest import need
from tests.functional.test_v1 import entry
from tests.gauges import wait_until
from tests.services import RedisServer, proxy_to
from tests.support import LOCAL, ROOT, TIMEOUT, TIMES, Server, frame

StartServer = Callable[..., Server]


#: How many requests go over a bad line.
REQUESTS = 150 * TIMES


def config(caches: dict[str, Any], silence: float = 600) -> dict[str, str]:
    """Return environment variables of a server with this cache."""
    settings = {"WEBSOCKET_URLCONF": "tests.project.once", "CACHES": {"default": caches}}
    return {
        "TEST_SETTINGS": json.dumps(settings),
        "TEST_SILENCE": str(silence),
        # As the manual says; but a busy machine may hold a lock of the cache for longer.
        "TEST_DATABASE_OPTIONS": json.dumps({"transaction_mode": "IMMEDIATE", "timeout": TIMEOUT}),
    }


def redis_cache(server: RedisServer) -> dict[str, Any]:
    """Return the settings of a cache in Redis."""
    return {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": server.url,
        "KEY_PREFIX": uuid4().hex,
    }


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test harms."""
    need("redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["redis", "database"])
def caches(
    request: pytest.FixtureRequest, redis: RedisServer, environment: dict[str, str]
) -> dict[str, Any]:
    """The settings of a cache that processes share."""
    if request.param == "redis":
        return redis_cache(redis)
    found = {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": f"cache_{uuid4().hex}",
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    }
    subprocess.run(
        [sys.executable, "-m", "django", "createcachetable"],
        env={**os.environ, **environment, **config(found)},
        cwd=ROOT,
        check=True,
    )
    return found


@pytest.fixture(scope="module")
def pair(caches: dict[str, Any], start_lasting_server: StartServer) -> tuple[Server, Server]:
    """Two servers that share the cache, with one process each: greenlets, and threads."""
    one, two = (start_lasting_server(name, env=config(caches)) for name in ("own", "runserver"))
    return one, two


@dataclass
class Effects:
    """What the view has done, for all processes.

    Attributes:
        folder: where its file is.
    """

    folder: Path

    @property
    def lines(self) -> list[list[str]]:
        """Process and name of each effect."""
        file = self.folder / "effects"
        return list(map(str.split, file.read_text().splitlines())) if file.exists() else []

    @property
    def pids(self) -> list[int]:
        """The processes that did something."""
        return [int(line[0]) for line in self.lines]

    def message(self, ref: object, **more: str) -> str:
        """Return a request."""
        return json.dumps({"type": "do", "ref": ref, "folder": str(self.folder), **more})

    def wait_for_start(self) -> None:
        """Wait until a request with a gate runs."""
        wait_until((self.folder / "started").exists, "the start of the request")

    def open_gate(self) -> None:
        """Let the request continue."""
        (self.folder / "go").touch()


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    """No effects yet."""
    return Effects(tmp_path)


@pytest.fixture
def ref() -> str:
    """A ref that no other test uses."""
    return uuid4().hex


def read(websocket: ClientConnection) -> Any:
    """Return the next message as a value."""
    return json.loads(websocket.recv(timeout=TIMEOUT))


def codes(websocket: ClientConnection, ref: str) -> list[str]:
    """Return the codes of the errors that are the next message."""
    answer = read(websocket)
    assert (answer["type"], answer["ref"]) == ("do", ref)
    return [each["code"] for found in answer["errors"].values() for each in found]


class TestProcesses:
    """Two processes that share a cache."""

    def test_concurrent(self, pair: tuple[Server, Server], effects: Effects, ref: str) -> None:
        """While a user's request runs, the same one in another process waits for its answer."""
        headers = {"Cookie": pair[0].sign_in("ann")}
        message = effects.message(ref, gate="yes")
        one, two = (server.connect("/do/", additional_headers=headers) for server in pair)
        with one, two:
            one.send(message)
            effects.wait_for_start()
            two.send(message)
            effects.open_gate()
            (pid,) = effects.pids
            answer = {"type": "do", "ref": ref, "reply": {"pid": pid}}
            assert [read(one), read(two)] == [answer, answer]
            # Later, in any process.
            for websocket in (one, two):
                websocket.send(message)
                assert read(websocket) == answer
        assert effects.pids == [pid]

    def test_race(self, pair: tuple[Server, Server], effects: Effects, ref: str) -> None:
        """Of requests that are sent to two processes at the same time, one runs."""
        headers = {"Cookie": pair[0].sign_in("bob")}
        one, two = (server.connect("/do/", additional_headers=headers) for server in pair)
        with one, two:
            for number in range(20):
                for websocket in (one, two):
                    websocket.send(effects.message(f"{ref}-{number}"))
            answers = [[read(websocket) for _ in range(20)] for websocket in (one, two)]
        assert answers[0] == answers[1]
        assert all("reply" in answer for answer in answers[0])
        assert len(effects.pids) == 20

    def test_reconnect(self, pair: tuple[Server, Server], effects: Effects, ref: str) -> None:
        """An anonymous client that returns to another process gets the answer that it missed."""
        message = effects.message(ref, gate="yes")
        with pair[0].upgraded("/do/", "Sec-WebSocket-Protocol: wsmux.v1\r\n") as wire:
            client = json.loads(wire.frame()[1])["welcome"]["client"]
            wire.send(frame(0x81, message.encode()))
            effects.wait_for_start()
        effects.open_gate()
        offer = ["wsmux.v1", entry(c=client)]
        with pair[1].connect("/do/", subprotocols=offer) as websocket:
            assert read(websocket)["welcome"]["client"] == client
            websocket.send(message)
            assert read(websocket)["reply"] == {"pid": effects.pids[0]}
        assert len(effects.pids) == 1
        # Another client may use the same ref.
        with pair[1].connect("/do/") as websocket:
            websocket.send(message)
            assert read(websocket)["reply"]
        assert len(effects.pids) == 2

    def test_errors(self, pair: tuple[Server, Server], effects: Effects, ref: str) -> None:
        """Errors are answers; the outcome of a view that raises is unknown."""
        headers = {"Cookie": pair[0].sign_in("ann")}
        for fails, code in (("error", "full"), ("crash", "unknown")):
            message = effects.message(f"{ref}-{fails}", fails=fails)
            with pair[0].connect("/do/", additional_headers=headers) as websocket:
                websocket.send(message)
                if fails == "error":
                    assert codes(websocket, f"{ref}-error") == ["full"]
            with pair[1].connect("/do/", additional_headers=headers) as websocket:
                wait_until(lambda: len(effects.pids) == (1 if fails == "error" else 2), "effect")  # noqa: B023
                websocket.send(message)
                assert codes(websocket, f"{ref}-{fails}") == [code]
        assert len(effects.pids) == 2


def test_killed(
    caches: dict[str, Any],
    pair: tuple[Server, Server],
    start_server: StartServer,
    effects: Effects,
    ref: str,
) -> None:
    """If the process of a request is killed, the outcome is unknown, and nothing runs again."""
    impatient = start_server("own", env=config(caches, 1))
    headers = {"Cookie": impatient.sign_in("ann")}
    message = effects.message(ref, gate="yes")
    with pair[0].connect("/do/", additional_headers=headers) as websocket:
        websocket.send(message)
        effects.wait_for_start()
        os.kill(effects.pids[0], signal.SIGKILL)
    for _ in range(2):
        with impatient.connect("/do/", additional_headers=headers) as websocket:
            websocket.send(message)
            assert codes(websocket, ref) == ["unknown"]
    assert len(effects.pids) == 1
    assert "once failed" not in impatient.log + pair[0].log
    impatient.wait_for_log(r"the outcome of a request \(type 'do'\) is unknown")


def test_cache_away(tmp_path: Path, start_server: StartServer, effects: Effects, ref: str) -> None:
    """Without the cache nothing runs; an answer that cannot be stored is sent."""
    need("redis-server")
    redis = RedisServer(tmp_path)
    server = start_server("own", env=config(redis_cache(redis)))
    with server.connect("/do/") as websocket:
        websocket.send(effects.message(ref, gate="yes"))
        effects.wait_for_start()
        redis.kill()
        effects.open_gate()
        assert read(websocket)["reply"] == {"pid": effects.pids[0]}
        websocket.send(effects.message(f"{ref}-2"))
        assert codes(websocket, f"{ref}-2") == ["unavailable"]
    assert len(effects.pids) == 1
    server.wait_for_log("the cache of requests that run once failed: 'ConnectionError: ")
    # A sign of life, every four seconds, may have failed too.
    assert json.loads(server.get("/metrics/"))["once_failed"] >= 2


def ask_through(port: int, messages: dict[str, str], cut: Callable[[], object]) -> dict[str, Any]:
    """Send requests over a line that is cut at random; return the answers by ref.

    Args:
        port: port of the line.
        messages: the requests by ref.
        cut: cuts the line.
    """
    answers: dict[str, Any] = {}
    client_id = ""
    left = dict(messages)
    while left:
        window = list(left)[:50]
        names = ["wsmux.v1", entry(c=client_id)] if client_id else ["wsmux.v1"]
        with suppress(ConnectionClosed, EOFError, InvalidHandshake, OSError):
            url = f"ws://127.0.0.1:{port}/do/"
            # websockets 14.1 waits for ever if it closes while its queue is full.
            options: dict[str, Any] = {**LOCAL, "max_queue": None, "close_timeout": 0.1}
            options["subprotocols"] = names
            with connect(url, **options) as websocket:
                client_id = read(websocket)["welcome"]["client"]
                for ref in window:
                    websocket.send(left[ref])
                for _ in range(random.randrange(2 * len(window))):
                    answer = read(websocket)
                    if "ref" in answer:
                        answers[answer["ref"]] = answer
                        left.pop(answer["ref"], None)
                    if not left.keys() & set(window):
                        break
                else:
                    cut()
    return answers


def test_bad_line(redis: RedisServer, start_server: StartServer, effects: Effects) -> None:
    """Over a line that is cut again and again, each request has one effect and the right answer."""
    server = start_server("own", "-w", "2", env=config(redis_cache(redis)))
    with proxy_to(server.port) as proxy:
        refs = [f"r-{number}" for number in range(REQUESTS)]
        messages = {ref: effects.message(ref, name=ref) for ref in refs}
        answers = ask_through(proxy.port, messages, proxy.cut)
    found = {name: int(pid) for pid, name in effects.lines}
    assert sorted(found) == sorted(refs)
    assert len(effects.lines) == len(refs)
    assert {ref: answer["reply"]["pid"] for ref, answer in answers.items()} == found


# In one process


class ForgetfulCache(BaseCache):
    """Stores nothing and raises nothing, as memcached while its server is away."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def add(self, *args: Any, **options: Any) -> bool:
        return False

    def get_many(self, *args: Any, **options: Any) -> dict[str, Any]:
        return {}


class SmallCache(LocMemCache):
    """Refuses large values and deletes the old ones, as memcached does."""

    def set(self, key: str, value: Any, *args: Any, **options: Any) -> None:
        if len(str(value)) > 1_000_000:
            self.delete(key)
            raise OSError("object too large for cache")
        super().set(key, value, *args, **options)


class JSONSerializer:
    """Has the caches of some projects contain JSON."""

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


handled: list[Any] = []


class Once(JSONWebSocketView):
    """Notes each message; runs the text as a command."""

    once = True

    def receive_json(self, value: Any) -> Any:
        handled.append(value)
        if value.get("crash"):
            raise LookupError("it broke")
        if value.get("close"):
            self.close(4000)
        return {"is_stored": _records(), "text": "x" * value.get("size", 0)}


class Again(Once):
    """Another view."""


def _records() -> int:
    """Return how many records in memory have an answer."""
    stored = cache._cache  # type: ignore[attr-defined]
    return (
        len([key for key in stored if b"reply" in stored[key]]) if isinstance(stored, dict) else 0
    )


urlpatterns = [path("once/", Once.as_view()), path("again/", Again.as_view())]


@pytest.fixture
def memory() -> Iterator[None]:
    """Use the views of this module, and an empty cache in memory."""
    handled.clear()
    backend = "django.core.cache.backends.locmem.LocMemCache"
    with override_settings(
        WEBSOCKET_URLCONF=__name__,
        WEBSOCKET_BACKEND="memory://",
        CACHES={"default": {"BACKEND": backend, "LOCATION": uuid4().hex}},
    ):
        yield
        close_all()


def ask(ws: ClientWebSocket, **message: Any) -> Any:
    """Send a request; return the answer."""
    ws.send_json(message)
    return ws.receive_json()


@pytest.mark.usefixtures("memory")
class TestOneProcess:
    """Details, with a cache in memory."""

    def test_repeated(self, client: WebSocketClient) -> None:
        """The second answer has the same bytes, and nothing runs."""
        with client.websocket("/once/") as ws:
            for _ in range(3):
                ws.send('{"ref": 1, "type": "x"}')
            first, *others = (ws.receive() for _ in range(3))
            assert first == '{"type": "x", "ref": 1, "reply": {"is_stored": 0, "text": ""}}'
            assert others == [first, first]
        assert len(handled) == 1

    def test_stored_before_sent(self, client: WebSocketClient) -> None:
        """The answer is stored even if it cannot be sent any more."""
        with client.websocket("/once/", subprotocols=["wsmux.v1"]) as ws:
            assert ws.receive_json()
            ws.send_json({"ref": 1, "close": True})
            assert ws.close_code == 4000
        assert _records() == 1

    def test_without_ref(self, client: WebSocketClient) -> None:
        """Messages without a ref run each time."""
        with client.websocket("/once/") as ws:
            for _ in range(3):
                ws.send_json({"type": "x"})
        assert len(handled) == 3

    def test_keys(self, client: WebSocketClient) -> None:
        """Refs of other types, views and clients are others; keys contain no peer's bytes."""
        with client.websocket("/once/") as ws, client.websocket("/once/") as other:
            for each in (ws, other):
                for ref in (1, "1", " \n\x7f\ud800" + "x" * 60, "ü" * 64):
                    assert ask(each, ref=ref)["ref"] == ref
        with client.websocket("/again/") as ws:
            assert ask(ws, ref=1)["reply"]
        assert len(handled) == 9
        for key in cache._cache:  # type: ignore[attr-defined]
            assert key.isascii()
            assert key.isprintable()
            assert " " not in key
            assert len(key) < 200

    def test_ref_reused(self, client: WebSocketClient) -> None:
        """Another message with the same ref is an error, not a lost message."""
        with client.websocket("/once/") as ws:
            assert ask(ws, ref=1, text="a")["reply"]
            errors = ask(ws, ref=1, text="b")["errors"]
            assert errors["__all__"][0]["code"] == "ref_reused"
        assert len(handled) == 1

    def test_crash(self, client: WebSocketClient) -> None:
        """An exception closes with 1011, and nothing runs again."""
        quiet = WebSocketClient(raise_request_exception=False)
        with quiet.websocket("/once/", subprotocols=["wsmux.v1"]) as ws:
            client_id = ws.receive_json()["welcome"]["client"]
            ws.send_json({"ref": 1, "crash": True})
            assert ws.close_code == 1011
        with client.websocket("/once/", subprotocols=["wsmux.v1", entry(c=client_id)]) as ws:
            assert ws.receive_json()["welcome"]["client"] == client_id
            assert ask(ws, ref=1, crash=True)["errors"]["__all__"][0]["code"] == "unknown"
        assert len(handled) == 1

    def test_evicted(self, client: WebSocketClient) -> None:
        """If the cache refuses a record and has none, the outcome is unknown."""
        before = counters["once_unknown"]
        with (
            client.websocket("/once/") as ws,
            override_settings(CACHES={"default": {"BACKEND": f"{__name__}.ForgetfulCache"}}),
        ):
            assert ask(ws, ref=1)["errors"]["__all__"][0]["code"] == "unknown"
        assert handled == []
        assert counters["once_unknown"] == before + 1

    @pytest.mark.parametrize("size", [1000, 2_000_000])
    def test_large_answer(self, client: WebSocketClient, size: int) -> None:
        """If the cache refuses an answer and deletes the record, nothing runs again."""
        backend = {"BACKEND": f"{__name__}.SmallCache", "LOCATION": uuid4().hex}
        with (
            override_settings(CACHES={"default": backend}),
            client.websocket("/once/") as ws,
        ):
            assert len(ask(ws, ref=1, size=size)["reply"]["text"]) == size
            assert ("reply" in ask(ws, ref=1, size=size)) == (size == 1000)
        assert len(handled) == 1

    def test_json_cache(self, client: WebSocketClient, redis: RedisServer) -> None:
        """A cache may contain JSON."""
        options = {"serializer": f"{__name__}.JSONSerializer"}
        with (
            override_settings(CACHES={"default": {**redis_cache(redis), "OPTIONS": options}}),
            client.websocket("/once/") as ws,
        ):
            assert ask(ws, ref=1) == ask(ws, ref=1)
            assert "errors" in ask(ws, ref=1, text="another")
        assert len(handled) == 1

    def test_no_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If no thread can be started, the next request tries again."""
        with monkeypatch.context() as patch:
            patch.setattr(once, "_runs", runs := once._Runs())
            patch.setattr(threading.Thread, "start", lambda _self: 1 / 0)
            with pytest.raises(ZeroDivisionError), once._signs_of_life("a"):
                pass
        assert not runs.keys
        assert not runs.is_watched


class Clock:
    """A clock that passes when the code under test sleeps.

    Args:
        events: what happens at which second.
    """

    def __init__(self, events: dict[float, Callable[[], object]]) -> None:
        self.now = 0.0
        self.events = events

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in [each for each in self.events if each <= self.now]:
            self.events.pop(moment)()


@pytest.mark.usefixtures("memory")
class TestWaiting:
    """How long a second request waits for the first one."""

    KEY = "django_wsmux.once.test"
    PULSE = f"{KEY}.pulse"

    def wait(
        self, monkeypatch: pytest.MonkeyPatch, events: dict[float, Callable[[], object]]
    ) -> tuple[str | None, float]:
        """Wait for a running request; return the answer and how long it took."""
        cache.set(self.KEY, ("digest", None))
        clock = Clock(events)
        monkeypatch.setattr(once, "time", clock)
        return once._await_answer(self.KEY, "digest", lambda: False), clock.now

    def test_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The answer comes soon after it is stored, as long as there are signs of life."""
        events: dict[float, Callable[[], object]] = {
            float(second): lambda second=second: cache.set(self.PULSE, second)  # type: ignore[misc]
            for second in range(4, 100, 4)
        }
        events[99] = lambda: cache.set(self.KEY, ("digest", "answer"))
        answer, seconds = self.wait(monkeypatch, events)
        assert answer == "answer"
        assert 99 <= seconds < 99.6

    def test_silence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without signs of life the outcome is unknown, for others at once."""
        answer, seconds = self.wait(monkeypatch, {8: lambda: cache.set(self.PULSE, 1)})
        assert answer is None
        assert 8 + once.SILENCE <= seconds < 9 + once.SILENCE
        assert self.wait(monkeypatch, {}) == (None, 0)

    def test_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that was only stopped is alive again after its next sign."""
        cache.set(self.PULSE, once._DEAD)
        once._give_sign([self.KEY], 5)
        store = {1: lambda: cache.set(self.KEY, ("digest", "late"))}
        assert self.wait(monkeypatch, store)[0] == "late"  # type: ignore[arg-type]

    def test_removed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the cache drops the record, the outcome is unknown."""
        answer, _ = self.wait(monkeypatch, {1: lambda: cache.delete(self.KEY)})
        assert answer is None


@pytest.mark.usefixtures("memory")
def test_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A running request gives signs of life, and its record does not expire."""
    monkeypatch.setattr(once, "INTERVAL", 0.01)
    cache.set("a", ("digest", None), 1000)
    with once._signs_of_life("a"):
        seen = set()
        wait_until(lambda: seen.add(cache.get("a.pulse")) or len(seen) > 3, "signs of life")  # type: ignore[func-returns-value]
    wait_until(lambda: not once._runs.is_watched, "the end of the thread")
    with once._signs_of_life("a"):
        wait_until(lambda: once._runs.is_watched, "another thread")


def test_fork() -> None:
    """A forked child has no thread and no running requests."""
    with once._signs_of_life("a"):
        pid = os.fork()
        if pid == 0:
            os._exit(bool(once._runs.keys or once._runs.is_watched))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_key() -> None:
    """The key depends on the user of the tenant, or on the client; and on the path."""

    def key(
        user: str | None, prefix: str, client: str = "c", ref: str | int = 1, path: str = "/a/"
    ) -> str:
        hooks = SimpleNamespace(user_id=user, prefix=prefix)
        websocket: Any = SimpleNamespace(hooks=hooks, client_id=client, path=path)
        return once.key_of(Request(websocket, {"ref": ref}), Once)

    assert key("5", "") == key("5", "", "d")
    found = [key("5", ""), key("6", ""), key("5", "a"), key(None, ""), key(None, "", "d")]
    found += [key("5", "", ref="1"), key("5", "", ref=2), key("5", "", path="/b/")]
    assert len(set(found)) == len(found)
