"""Window: the recent messages of a stream, and the limit of all windows."""

from __future__ import annotations

from django_wsmux.history.window import Window, Windows


class Message:
    """A message of ten bytes."""

    payload = b"x" * 10

    def __init__(self, offset: int) -> None:
        self.offset = offset


def offsets(window: Window[Message]) -> list[int]:
    """Return the offsets of the messages."""
    return [message.offset for message in window]


def filled(first: int, last: int) -> Window[Message]:
    """Return a window with messages."""
    window: Window[Message] = Window(first - 1)
    for offset in range(first, last + 1):
        window.append(Message(offset), 100)
    return window


def test_append() -> None:
    """The newest messages are kept, without holes."""
    window = filled(5, 7)
    assert (window.start, offsets(window)) == (4, [5, 6, 7])
    window.append(Message(8), 2)
    assert (window.start, offsets(window)) == (6, [7, 8])
    window.append(Message(20), 2)
    assert (window.start, offsets(window)) == (19, [20])


def test_after() -> None:
    """The messages above an offset."""
    window = filled(5, 7)
    assert [message.offset for message in window.after(4)] == [5, 6, 7]
    assert [message.offset for message in window.after(6)] == [7]
    assert window.after(7) == []
    assert window.first_after(4) is window.after(4)[0]
    assert window.first_after(6) is window.after(4)[2]
    assert window.first_after(7) is None


def test_extend_back() -> None:
    """Older messages are added if they end where the window begins."""
    window = filled(5, 6)
    window.extend_back(map(Message, (2, 3, 4, 5)))
    assert (window.start, offsets(window)) == (1, [2, 3, 4, 5, 6])
    window.extend_back([Message(0)])
    assert window.start == 1
    empty: Window[Message] = Window(3)
    empty.extend_back(map(Message, (2, 3)))
    assert (empty.start, offsets(empty)) == (1, [2, 3])


def test_limit() -> None:
    """The windows that were used least recently lose their oldest messages first."""
    one, two = filled(1, 3), filled(1, 3)
    windows: Windows[Message] = Windows(limit=5 * (one.size // 3))
    windows.use("one", one)
    windows.use("two", two)
    assert (offsets(one), offsets(two)) == ([2, 3], [1, 2, 3])
    windows.use("one", one)
    two.append(Message(4), 100)
    windows.use("two", two)
    assert (offsets(one), offsets(two)) == ([3], [1, 2, 3, 4])
    windows.discard("two")
    windows.discard("two")
    assert windows.size == one.size


def test_single_window_beyond_the_limit() -> None:
    """A single window is limited, too."""
    window = filled(1, 3)
    windows: Windows[Message] = Windows(limit=window.size - 1)
    windows.use("one", window)
    assert offsets(window) == [2, 3]


def test_cleared_window() -> None:
    """A window that was cleared meanwhile does not shorten the others."""
    one, two = filled(1, 3), filled(1, 3)
    windows: Windows[Message] = Windows(limit=one.size)
    windows.use("one", one)
    one.clear(3)
    windows.use("two", two)
    assert (offsets(two), windows.size) == ([1, 2, 3], two.size)
