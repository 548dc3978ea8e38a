"""The recipes of docs/client.rst, with the real libraries."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.manual import blocks
from tests.support import ROOT, TIMEOUT, Server

from .browsers import Browser, browser_of
from .nodes import BIN, STATIC, environment, run
from .proxy import Proxy

HERE = Path(__file__).parent

#: The components that use the recipes: they show state, room and messages.
APPS = {
    "React": """
import { StrictMode, createElement as h, useState } from "react";
import { createRoot } from "react-dom/client";
import { useRoom } from "./useRoom.js";

function Lines({ name }) {
  const [lines, setLines] = useState([]);
  const message = (text) => setLines([...lines, text.split(" ")[1]]);
  const { state } = useRoom(`/asked/joining/?group=${window.group}${name}`, { message });
  return `${state} ${name}: ${lines.join(" ")}`.trim();
}

const root = createRoot(document.querySelector("#app"));
window.show = (name) => root.render(h(StrictMode, null, h(Lines, { name, key: name })));
window.leave = () => root.unmount();
window.show("a");
""",
    "Vue": """
import { computed, createApp, h, ref } from "vue";
import { useRoom } from "./useRoom.js";

const name = ref("a");
const Lines = {
  setup() {
    const lines = ref([]);
    const url = computed(() => {
      lines.value = [];
      return `/asked/joining/?group=${window.group}${name.value}`;
    });
    const message = (text) => lines.value.push(text.split(" ")[1]);
    const { state } = useRoom(url, { message });
    return () => h("p", `${state.value} ${name.value}: ${lines.value.join(" ")}`.trim());
  },
};
const app = createApp(Lines);
app.mount("#app");
window.show = (value) => (name.value = value);
window.leave = () => app.unmount();
""",
}


def recipe(word: str) -> str:
    """Return the block of the manual that has this word and is run here."""
    (text,) = (
        each.text
        for each in blocks(ROOT / "docs" / "client.rst")
        if each.comment == "Run by tests/client/test_recipes.py." and word in each.text
    )
    return text


@pytest.fixture(scope="module")
def server(start_lasting_server: StartServer) -> Server:
    """A server that keeps messages."""
    settings = {"WEBSOCKET_HISTORY": {"recipe*": {"messages": 50, "seconds": 600}}}
    return start_lasting_server("own", env={"TEST_SETTINGS": json.dumps(settings)})


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser: what differs between browsers is tested elsewhere."""
    profile = tmp_path_factory.mktemp("profile")
    yield from browser_of("chromium", "recipes.cases.mjs", profile)


@pytest.mark.parametrize("name", APPS)
def test_component(server: Server, browser: Browser, name: str, tmp_path: Path) -> None:
    """A component shows messages, survives a cut, changes the room, and closes at its end."""
    (tmp_path / "useRoom.js").write_text(recipe(f'from "{name.lower()}"'))
    (tmp_path / "app.js").write_text(APPS[name])
    client, bundle = STATIC / "client.js", tmp_path / "bundle.js"
    run("node", HERE / "bundle.mjs", tmp_path / "app.js", client, bundle)
    proxy = Proxy(server.port)
    try:
        browser.run(
            "component",
            origin=f"http://127.0.0.1:{proxy.port}",
            direct=f"http://127.0.0.1:{server.port}",
            control=proxy.control,
            group=f"recipe{name}",
            script=bundle.read_text(),
        )
    finally:
        proxy.stop()


def test_lines() -> None:
    """The hook and the composable have at most 30 lines."""
    for word in ('from "react"', 'from "vue"'):
        code = re.sub(r"^\s*//.*\n", "", recipe(word), flags=re.MULTILINE)
        assert len(code.splitlines()) <= 30


def test_node(server: Server, tmp_path: Path) -> None:
    """The program in Node prints messages, and ends when the connection is closed for good."""
    package = tmp_path / "node_modules" / "django-wsmux"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"type": "module", "exports": "./client.js"}')
    (package / "client.js").write_text((STATIC / "client.js").read_text())
    (tmp_path / "prices.mjs").write_text(recipe("// prices.mjs"))
    url = f"ws://127.0.0.1:{server.port}/asked/whoami/"
    with subprocess.Popen(
        [BIN / "node", "prices.mjs"],
        cwd=tmp_path,
        env=environment(URL=url, TOKEN="good one"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "good one\n"
        process.kill()
        process.communicate(timeout=TIMEOUT)
    refused = run("node", "prices.mjs", cwd=tmp_path, env={"URL": url, "TOKEN": "bad"})
    assert refused.startswith("closed: 4401 401 Unauthorized")
