"""The queue of messages for a view: its size in bytes."""

from __future__ import annotations

from sys import getsizeof

from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.connection.message_queue import MessageQueue

MESSAGES = st.one_of(st.text(max_size=20), st.binary(max_size=20))


@given(st.lists(st.one_of(MESSAGES, st.sampled_from([MessageQueue.take, MessageQueue.put_back]))))
def test_size(steps: list[object]) -> None:
    """In any order of calls, the size is that of the messages in the queue."""
    queue, last = MessageQueue(), ""
    for step in steps:
        if step is MessageQueue.take:
            last = queue.take() if queue else ""
        elif step is MessageQueue.put_back:
            queue.put_back(last)
        else:
            queue.append(step)
        if len(queue) % 2:  # the size need not be read after each call
            assert queue.size == sum(map(getsizeof, queue))
    assert queue.size == sum(map(getsizeof, queue))
