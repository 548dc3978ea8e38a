"""Origins: which web pages may open a socket."""

import pytest

from django_wsmux.protocol.origin import has_port, is_allowed, is_loopback, is_same, problem

NOT_ORIGINS = [
    "",
    "null",
    "example.com",
    "//example.com",
    "https://",
    "https://example.com/",
    "https://example.com/page",
    "https://example.com?query",
    "https://example.com#part",
    "https://example.com:port",
    "https://example.com:65536",
    "https://user@example.com",
    "https://@example.com",
    "https://example.com:",
    "https://example.com?",
    "https://example.com#",
    "https://exam\tple.com",
    " https://example.com",
    "https://example.com\n",
    "https://[::1",
    "https://[::x]",
    "https://example.com[::1]",
    "https://[::1]example.com",
    "https://example.com,a.example.com",
    "https://example.com,https://example.com",
    "https://example.com%2ea",
    "https://example.com;a",
    "https://a*.example.com",
]


class TestIsSame:
    """Section 10.2: a page of the site that received the request."""

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://example.com", "example.com"),
            ("http://example.com", "example.com:80"),
            ("http://example.com:80", "example.com"),
            ("http://example.com:8000", "example.com:8000"),
            ("http://EXAMPLE.com", "example.COM"),
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
            ("http://[::1]:8000", "[::1]:8000"),
            ("ws://example.com", "example.com"),
            ("ws://example.com:8000", "example.com:8000"),
            ("wss://example.com", "example.com"),
            ("WSS://example.com:443", "example.com"),
        ],
    )
    def test_same(self, origin: str, host: str) -> None:
        """Host and port are equal, with the default port explicit or not."""
        assert is_same(origin, host, secure=False)

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://example.com", "example.org"),
            ("http://example.com", "www.example.com"),
            ("http://www.example.com", "example.com"),
            ("http://example.com.evil.example", "example.com"),
            ("http://example.com:8000", "example.com"),
            ("http://example.com", "example.com:8000"),
            ("http://example.com", "example.com:443"),
            ("https://example.com", "example.com:80"),
            ("wss://example.com", "example.com:80"),
            ("ws://example.org", "example.com"),
        ],
    )
    def test_other(self, origin: str, host: str) -> None:
        """Another host or another port is another site."""
        assert not is_same(origin, host, secure=False)

    def test_secure_page_behind_a_proxy(self) -> None:
        """A proxy may have terminated TLS without saying so: the scheme is not compared."""
        assert is_same("https://example.com", "example.com", secure=False)
        assert is_same("https://example.com", "example.com:443", secure=False)

    def test_shell_of_an_app(self) -> None:
        """The origin of an app's shell is no page of the site: it must be allowed by name."""
        assert not is_same("capacitor://localhost", "localhost", secure=False)
        assert not is_loopback("capacitor://localhost")
        assert is_allowed("capacitor://localhost", ["capacitor://localhost"])

    @pytest.mark.parametrize(
        "origin", ["https://example.com", "https://example.com:443", "wss://example.com"]
    )
    def test_secure_request(self, origin: str) -> None:
        """A secure page may open a secure socket."""
        assert is_same(origin, "example.com", secure=True)

    def test_plain_page_on_a_secure_request(self) -> None:
        """An attacker who can forge a plain page must not reach the secure site."""
        assert not is_same("http://example.com", "example.com", secure=True)
        assert not is_same("http://example.com", "example.com:80", secure=True)
        assert not is_same("ws://example.com", "example.com", secure=True)

    @pytest.mark.parametrize("origin", NOT_ORIGINS)
    def test_not_an_origin(self, origin: str) -> None:
        """A value other than scheme://host[:port] is no site."""
        assert not is_same(origin, "example.com", secure=False)

    @pytest.mark.parametrize("host", ["", "example.com/", "[::1", "example.com:port"])
    def test_not_a_host(self, host: str) -> None:
        """A bad Host header has no pages."""
        assert not is_same("http://example.com", host, secure=False)


@pytest.mark.parametrize(
    ("host", "has"),
    [
        ("a.example:80", True),
        ("a.example", False),
        ("[::1]:1", True),
        ("[::1]", False),
        ("", False),
    ],
)
def test_has_port(host: str, has: bool) -> None:
    """An explicit port is found, even the default one."""
    assert has_port(host) is has


class TestIsLoopback:
    """Section 10.2: a page on this machine, such as that of a front-end's development server."""

    @pytest.mark.parametrize(
        "origin",
        [
            "http://localhost",
            "http://localhost:5173",
            "https://LOCALHOST",
            "http://shop.localhost:8000",
            "http://127.0.0.1:3000",
            "http://127.8.9.1",
            "http://[::1]:3000",
        ],
    )
    def test_loopback(self, origin: str) -> None:
        """The port of a loopback origin does not matter."""
        assert is_loopback(origin)

    @pytest.mark.parametrize(
        "origin",
        [
            "http://example.com",
            "http://localhost.example.com",
            "http://notlocalhost",
            "http://127.0.0.1.example.com",
            "http://192.168.0.1",
            "http://0.0.0.0",
            "http://[2001:db8::1]",
            "http://localhost/",
        ],
    )
    def test_elsewhere(self, origin: str) -> None:
        """A similar name or address is not on this machine."""
        assert not is_loopback(origin)

    @pytest.mark.parametrize("origin", NOT_ORIGINS)
    def test_not_an_origin(self, origin: str) -> None:
        """A value other than scheme://host[:port] is not either."""
        assert not is_loopback(origin)


class TestIsAllowed:
    """Section 10.2: origins that the project lists."""

    @pytest.mark.parametrize(
        ("origin", "pattern"),
        [
            ("https://example.com", "https://example.com"),
            ("https://example.com:443", "https://example.com"),
            ("https://example.com", "https://example.com:443"),
            ("https://example.com:8443", "https://example.com:8443"),
            ("https://Example.com", "https://exaMPLE.com"),
            ("https://a.example.com", "https://*.example.com"),
            ("https://a.b.example.com", "https://*.example.com"),
            ("https://a.example.com:8443", "https://*.example.com:8443"),
            ("app://shell", "app://shell"),
            ("wss://example.com", "https://example.com"),
            ("https://example.com", "wss://example.com"),
            ("null", "null"),
            ("file://", "file://"),
        ],
    )
    def test_match(self, origin: str, pattern: str) -> None:
        """Scheme, host or parent domain, and port are equal."""
        assert is_allowed(origin, [pattern])

    @pytest.mark.parametrize(
        ("origin", "pattern"),
        [
            ("http://example.com", "https://example.com"),
            ("https://example.com:8443", "https://example.com"),
            ("https://example.com", "https://example.com:8443"),
            ("https://www.example.com", "https://example.com"),
            ("https://example.com", "https://*.example.com"),
            ("https://badexample.com", "https://*.example.com"),
            ("https://a.example.com.evil.example", "https://*.example.com"),
            ("https://example.com", "https://*"),
            ("https://*.example.com", "https://*.example.com"),
            ("https://a,b.example.com", "https://*.example.com"),
            ("https://example.com", "example.com"),
            ("https://example.com", "https://example.com:port"),
            ("null", "file://"),
            ("null", "https://null"),
            ("file://", "null"),
        ],
    )
    def test_mismatch(self, origin: str, pattern: str) -> None:
        """A single difference is enough to refuse."""
        assert not is_allowed(origin, [pattern])

    def test_any_of_the_patterns(self) -> None:
        """One matching pattern is enough."""
        patterns = ["https://a.example", "https://b.example"]
        assert is_allowed("https://b.example", patterns)
        assert not is_allowed("https://c.example", patterns)

    def test_no_patterns(self) -> None:
        """An empty list allows no origin."""
        assert not is_allowed("https://example.com", [])

    @pytest.mark.parametrize("origin", ["https://example.com", *NOT_ORIGINS])
    def test_star(self, origin: str) -> None:
        """A star allows every page, including a sandboxed one ("null")."""
        assert is_allowed(origin, ["https://other.example", "*"])

    @pytest.mark.parametrize("origin", [each for each in NOT_ORIGINS if each != "null"])
    def test_not_an_origin(self, origin: str) -> None:
        """A value other than scheme://host[:port] matches no pattern, not even itself."""
        assert not is_allowed(origin, [origin, "https://example.com", "https://*.example.com"])


class TestProblem:
    """Patterns that can match no origin are found in advance."""

    @pytest.mark.parametrize(
        ("pattern", "said"),
        [
            ("example.com", "has no scheme"),
            ("*.example.com", "has no scheme"),
            ("", "has no scheme"),
            ("NULL", "has no scheme"),
            ("https://example.com/", 'write "https://example.com"'),
            ("https://example.com/app?a=b", 'write "https://example.com"'),
            ("http://localhost:*", "list each port"),
            ("https://*", "for subdomains only"),
            ("https://*example.com", "for subdomains only"),
            ("https://.example.com", 'write "https://*.example.com"'),
            ("https://user@example.com", 'write "https://example.com"'),
            ("https://b\xfccher.example:8443", 'write "https://xn--bcher-kva.example:8443"'),
            ("https://\xfc" + "a" * 64, 'write "https://xn--..."'),
            ("file:///", 'write "file://"'),
            ("file:///index.html", 'write "file://"'),
            ("*://example.com", "is not of the form"),
            ("https://example.com:", "is not of the form"),
            ("https://example.com:99999", "is not of the form"),
            ("https://a.example,https://b.example", "has something after"),
            (None, "is not a string"),
        ],
    )
    def test_wrong(self, pattern: object, said: str) -> None:
        """Each wrong pattern has an explanation, and no origin matches it."""
        assert said in (problem(pattern) or "")

    @pytest.mark.parametrize(
        "pattern",
        [
            *("*", "null", "file://", "https://EXAMPLE.com", "http://[::1]:8000", "app://."),
            *("https://*.example.com:8443", "https://xn--bcher-kva.example", "wss://example.com"),
            *("capacitor://localhost", "chrome-extension://abc", "http://localhost:5173"),
        ],
    )
    def test_right(self, pattern: str) -> None:
        """A pattern that an origin can match is valid: this one matches."""
        assert problem(pattern) is None
        assert is_allowed(pattern.replace("*.", "a.") if "://" in pattern else "null", [pattern])
