"""Makes the moving picture of README: ``python -m tests.sample_site.film docs/images/chat.gif``.

Two browsers talk on the sample site, gunicorn is reloaded, and one of them is offline for a while.
All of it happens: the windows are screenshots, and the terminal has gunicorn's own lines. Look at
the result before you copy it to the manual.
"""

from __future__ import annotations

import base64
import html
import io
import re
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.client.proxy import Proxy
from tests.sample_site.conftest import new_window, serve, wait_for
from tests.sample_site.test_browser import introduce, say
from tests.support import Server

__all__ = ["main"]

#: Pixels of the page in a window, which is shown smaller, and of the whole picture.
WINDOW = (640, 508)
PICTURE = (880, 594)

#: Pixels of the file for one of the picture: displays with a high density show twice as many.
SCALE = 2

#: The address that the terminal and the windows show, wherever the site is.
ADDRESS = "127.0.0.1:8000"

COMMAND = "gunicorn -k django_wsmux.worker.WebSocketWorker -w 2 sample_site.wsgi"

PAGE = """
<!doctype html><meta charset="utf-8">
<style>
  body { margin: 0; padding: 8px; background: #fff; box-sizing: border-box; display: grid;
         grid-template-columns: 424px 424px; gap: 16px; font: 13px/1.5 "DejaVu Sans", sans-serif; }
  figure { margin: 0; border-radius: 8px; overflow: hidden; box-shadow: 0 0 0 1px #b9b4a8; }
  figcaption { background: #dcd8ce; color: #555; padding: 4px 10px; font-size: 12px; }
  i { display: inline-block; width: 9px; height: 9px; border-radius: 5px; background: #a9a497;
      margin-right: 5px; }
  img { display: block; width: 424px; }
  .terminal { grid-column: 1 / 3; box-shadow: none; }
  .terminal figcaption { background: #39413d; color: #b8c2bc; }
  pre { margin: 0; padding: 8px 12px; height: 156px; background: #151a18; color: #aab5af;
        font: 12.5px/1.55 "DejaVu Sans Mono", monospace; }
  pre b { color: #fff; } pre em { color: #35b98b; font-style: normal; }
</style>
"""


def window_html(name: str, picture: str) -> str:
    """Return a browser's window with its page."""
    source = f"data:image/png;base64,{picture}"
    title = f"<i></i><i></i><i></i> &nbsp;{ADDRESS}/chat &nbsp;({name})"
    return f'<figure><figcaption>{title}</figcaption><img src="{source}"></figure>'


@dataclass
class Film:
    """The picture so far.

    Attributes:
        windows: the browsers, by the names of their users.
        screen: the browser that shows the whole picture.
        terminal: the lines of the terminal, as HTML.
    """

    windows: dict[str, webdriver.Chrome]
    screen: webdriver.Chrome
    terminal: list[str] = field(default_factory=list)
    _frames: list[Image.Image] = field(default_factory=list)
    _times: list[int] = field(default_factory=list)

    def type(self, line: str) -> None:
        """Enter a command or a comment in the terminal."""
        kind = "em" if line.startswith("#") else "b"
        self.terminal.append(f"$ <{kind}>{html.escape(line)}</{kind}>")

    def print(self, line: str) -> None:
        """Add a line of gunicorn, without the time."""
        self.terminal.append(html.escape(re.sub(r"^\[.+?\] ", "", line)))

    def take(self, seconds: float) -> None:
        """Add what the windows and the terminal show now, to be shown that long."""
        windows = [
            window_html(name, window.get_screenshot_as_base64())
            for name, window in self.windows.items()
        ]
        text = "\n".join(self.terminal[-8:])
        terminal = f"<figcaption><i></i><i></i><i></i></figcaption><pre>{text}</pre>"
        body = "".join(windows) + f'<figure class="terminal">{terminal}</figure>'
        page = base64.b64encode(f"{PAGE}{body}".encode()).decode()
        self.screen.get(f"data:text/html;base64,{page}")
        self._frames.append(Image.open(io.BytesIO(self.screen.get_screenshot_as_png())))
        self._times.append(round(seconds * 1000))

    @property
    def transcript(self) -> str:
        """What terminal and windows show now, without numbers, which differ each time."""
        said = [
            f"{name}: {line.text}"
            for name, window in self.windows.items()
            for line in window.find_elements(By.CSS_SELECTOR, "#log .text")
        ]
        terminal = html.unescape(re.sub(r"<[^>]+>", "", "\n".join(self.terminal)))
        return "\n".join([re.sub(r"\d+", "", terminal), *said])

    def save(self, path: Path) -> None:
        """Write one file, in the colours of the last frame; its comment is the transcript."""
        last = self._frames[-1].convert("RGB")
        palette = last.quantize(128, method=Image.Quantize.MAXCOVERAGE)
        plain = Image.Dither.NONE
        frames = [
            each.convert("RGB").quantize(palette=palette, dither=plain) for each in self._frames
        ]
        frames[0].save(
            path,
            save_all=True,
            append_images=frames[1:],
            duration=self._times,
            loop=0,
            optimize=True,
            comment=self.transcript.encode(),
        )


def set_size(window: webdriver.Chrome, size: tuple[int, int]) -> None:
    """Give a browser a page of this size, however small."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": SCALE, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def speak(film: Film, name: str, text: str, *, seconds: float = 2) -> None:
    """Let a user type a line, and send it; all who are online see it."""
    window = film.windows[name]
    window.find_element(By.NAME, "text").send_keys(text)
    film.take(0.7)
    say(window, "")
    for each in film.windows.values():
        if each.find_element(By.ID, "state").text == "connected":
            wait_for(each, "#log", text)
    film.take(seconds)


def play(film: Film, server: Server, proxy: Proxy) -> None:
    """Chat, reload gunicorn, and lose the line to Grace for a while."""
    film.type(COMMAND)
    listening = server.wait_for_log(r"\[[^\n]+Listening at: [^\n]+")[0]
    film.print(listening.replace(f"127.0.0.1:{server.port}", ADDRESS))
    film.take(1.5)
    speak(film, "Ada", "Is this thing on?")
    speak(film, "Grace", "Yes: one gunicorn, no broker.")

    film.type(f"kill -HUP {server.process.pid}   # a deploy")
    film.take(1)
    workers = server.workers
    server.signal(signal.SIGHUP)
    film.print(server.wait_for_log(r"\[[^\n]+Handling signal: hup")[0])
    for worker in workers:
        film.print(server.wait_for_log(rf"\[[^\n]+Worker exiting \(pid: {worker}\)")[0])
    film.take(1.5)
    speak(film, "Ada", "That was a deploy. Still here?")
    speak(film, "Grace", "Same socket, new workers.")

    proxy.refuse()
    proxy.cut()
    wait_for(film.windows["Grace"], "#state", "reconnecting")
    film.type("# Grace's train enters a tunnel")
    film.take(1.5)
    speak(film, "Ada", "Did I lose you?", seconds=1)
    speak(film, "Ada", "Lunch at one.")
    proxy.resume()
    wait_for(film.windows["Grace"], "#log", "Lunch at one.")
    wait_for(film.windows["Grace"], "#state", "connected")
    film.type("# and leaves it: no line is missing")
    film.take(4)


def main(path: Path) -> None:
    """Serve the sample site, and record."""
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        server = serve(Path(temporary), "-w", "2")
        stack.callback(server.stop)
        proxy = Proxy(server.port)
        stack.callback(proxy.stop)
        browsers = []
        for name in ("Ada", "Grace", "screen"):
            browsers.append(new_window(Path(temporary, name)))
            stack.callback(browsers[-1].quit)
        *windows, screen = browsers
        set_size(screen, PICTURE)
        for window, port, name, colour in zip(
            windows,
            (server.port, proxy.port),
            ("Ada", "Grace"),
            ("#7b3fa0", "#b3541e"),
            strict=True,
        ):
            set_size(window, WINDOW)
            window.get(f"http://127.0.0.1:{port}/chat/")
            wait_for(window, "#state", "connected")
            introduce(window, name, colour)
        film = Film(dict(zip(("Ada", "Grace"), windows, strict=True)), screen)
        play(film, server, proxy)
        film.save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
