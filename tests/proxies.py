"""Real proxies in front of a server under test, configured with the files of the manual."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import PATH, ROOT, TIMEOUT, Site, tls_context, unused_port, wait_for_port

__all__ = [
    "LEAST",
    "PROXIES",
    "SOCKETS_BACKEND",
    "TWO_PORTS",
    "Change",
    "Kind",
    "ReverseProxy",
]

FILES = ROOT / "docs" / "deployment"

#: Where the manual's files expect Django.
BACKEND = "127.0.0.1:8000"

#: The paths of the certificate, its key, and both in one file, as the manual writes them.
CERTIFICATES = tuple(f"/etc/ssl/example.com/{name}.pem" for name in ("certificate", "key", "both"))

# What Debian's apache2.conf and a2enmod do. The user is nobody, for tests that run as root.
_APACHE = """\
ServerRoot {directory}
DefaultRuntimeDir {directory}
PidFile {directory}/pid
ErrorLog {directory}/log
ServerName localhost
User #65534
Group #65534
Listen 127.0.0.1:{plain}
Listen 127.0.0.1:{port}
{modules}
Include {file}
"""
_APACHE_MODULES = ("mpm_event", "authz_core", "alias", "headers", "ssl", "proxy", "proxy_http")

#: A text of a file, and its replacement.
Change = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the manual's files, and how the tests run it.

    Args:
        file: its name.
        program: the program that it configures.
        addresses: the addresses to listen on, and their replacements. ``{port}`` serves pages and
            sockets, ``{plain}`` redirects browsers to TLS.
        timeout: the limit for an idle WebSocket, and the same with one second.
        unix: the address of Django, and its replacement with a unix socket, ``{path}``.
        is_secure: whether it terminates TLS.
    """

    file: str
    program: str
    addresses: Mapping[str, str]
    timeout: Change
    unix: Change
    is_secure: bool = True


_NGINX_TIMEOUT = ("proxy_read_timeout 300s;", "proxy_read_timeout 1s;")
_CADDY_TIMEOUT = "{\n\t\ttransport http {\n\t\t\tread_timeout 1s\n\t\t}\n\t}\n"
_NGINX_UNIX = (f"server {BACKEND};", "server unix:{path};")

#: By the names that the tests show.
PROXIES = {
    "nginx": Kind(
        "nginx-site.conf",
        "nginx",
        {"listen 127.0.0.1:8080;": "listen 127.0.0.1:{port};"},
        _NGINX_TIMEOUT,
        _NGINX_UNIX,
        is_secure=False,
    ),
    "nginx-tls": Kind(
        "nginx-tls.conf",
        "nginx",
        {"listen 80;": "listen 127.0.0.1:{plain};", "listen 443 ": "listen 127.0.0.1:{port} "},
        _NGINX_TIMEOUT,
        _NGINX_UNIX,
    ),
    "caddy": Kind(
        "Caddyfile",
        "caddy",
        {
            # Global options of Caddy come first.
            "example.com {\n": "{{\n\tadmin off\n\thttp_port {plain}\n}}\n"
            "https://127.0.0.1:{port} {{\n"
        },
        # By default Caddy has no such limit.
        (f"reverse_proxy {BACKEND}\n", f"reverse_proxy {BACKEND} {_CADDY_TIMEOUT}"),
        (f"reverse_proxy {BACKEND}", "reverse_proxy unix/{path}"),
    ),
    "haproxy": Kind(
        "haproxy.cfg",
        "haproxy",
        {
            "bind :80\n": "bind 127.0.0.1:{plain}\n",
            "bind :443 ": "bind 127.0.0.1:{port} ",
            # HAProxy refuses to start with fewer descriptors than these would need.
            "maxconn 20000": "maxconn 1000",
        },
        ("timeout tunnel 300s", "timeout tunnel 1s"),
        (f"server gunicorn {BACKEND}", "server gunicorn unix@{path}"),
    ),
    "apache": Kind(
        "apache.conf",
        "apache2",
        {
            "<VirtualHost *:80>": "<VirtualHost *:{plain}>",
            "<VirtualHost *:443>": "<VirtualHost *:{port}>",
        },
        # The longer of its two limits counts.
        ("ProxyTimeout 300", "ProxyTimeout 1\n    Timeout 1"),
        (f"http://{BACKEND}/ ", "unix:{path}|http://localhost/ "),
    ),
}

#: The minimal configuration of nginx: it tells Django nothing about scheme, host and client.
LEAST = Kind(
    "nginx.conf", "nginx", PROXIES["nginx"].addresses, ("", ""), _NGINX_UNIX, is_secure=False
)

#: Where ``TWO_PORTS`` expects the server of the WebSockets.
SOCKETS_BACKEND = "127.0.0.1:8001"

#: Two servers behind one address.
TWO_PORTS = Kind(
    "nginx-two-ports.conf",
    "nginx",
    PROXIES["nginx"].addresses,
    _NGINX_TIMEOUT,
    _NGINX_UNIX,
    is_secure=False,
)


class ReverseProxy(Site):
    """A proxy with a file of the manual, in which addresses and paths are replaced.

    Args:
        kind: which proxy and file.
        directory: an empty directory for it alone.
        certificate: a file with certificate and key.
        backend: the port of the server behind it, or the path of its unix socket.
        changes: further replacements in the file.
    """

    def __init__(
        self,
        kind: Kind,
        directory: Path,
        certificate: Path,
        backend: int | Path,
        changes: Iterable[Change] = (),
    ) -> None:
        self.plain = Site(unused_port())
        port = unused_port()
        if kind.is_secure:
            super().__init__(port, "https", tls_context(certificate))
        else:
            super().__init__(port)
        self._directory = directory
        text = (FILES / kind.file).read_text()
        for old, new in changes:
            assert old in text, f"{old!r} is not in {kind.file}"
            text = text.replace(old, new)
        for old, new in kind.addresses.items():
            assert old in text, f"{old!r} is not in {kind.file}"
            text = text.replace(old, new.format(port=port, plain=self.plain.port))
        if isinstance(backend, Path):
            assert kind.unix[0] in text
            text = text.replace(kind.unix[0], kind.unix[1].format(path=backend))
        text = text.replace(BACKEND, f"127.0.0.1:{backend}")
        for path in CERTIFICATES:
            text = text.replace(path, str(certificate))
        file = directory / kind.file
        file.write_text(text)
        program = shutil.which(kind.program, path=PATH)
        assert program is not None
        with (directory / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [program, *getattr(self, f"_{kind.program}")(file)],
                stdout=output,
                stderr=output,
                # Caddy stores its data there.
                env={**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory)},
            )
        try:
            wait_for_port(port)
        except AssertionError:
            self.stop()
            raise AssertionError(f"{kind.program} did not start: {self.output}") from None

    def _nginx(self, file: Path) -> list[str]:
        # Ordinary users cannot write to nginx's default directories for large bodies.
        temporary = " ".join(
            f"{kind}_temp_path {self._directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = file.read_text()
        file.write_text(text.replace("http {", f"http {{ {temporary} access_log off;", 1))
        directives = f"daemon off; pid {self._directory}/pid; error_log stderr;"
        return ["-p", str(self._directory), "-c", str(file), "-g", directives]

    def _caddy(self, file: Path) -> list[str]:
        return ["run", "--adapter", "caddyfile", "--config", str(file)]

    def _haproxy(self, file: Path) -> list[str]:
        return ["-db", "-f", str(file)]

    def _apache2(self, file: Path) -> list[str]:
        modules = "\n".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
            for name in _APACHE_MODULES
        )
        main = self._directory / "apache2.conf"
        main.write_text(
            _APACHE.format(
                directory=self._directory,
                plain=self.plain.port,
                port=self.port,
                modules=modules,
                file=file,
            )
        )
        return ["-DFOREGROUND", "-f", str(main)]

    @property
    def output(self) -> str:
        """The output of the program so far."""
        return (self._directory / "output").read_text()

    def stop(self) -> None:
        """Stop the proxy."""
        self.process.terminate()
        self.process.wait(TIMEOUT)
