"""The limits of a connection."""

from dataclasses import FrozenInstanceError

import pytest

from django_wsmux.protocol.options import Options


class TestOptions:
    """One value that all connections share."""

    def test_cannot_be_changed(self) -> None:
        """A connection cannot change the limits of others."""
        options = Options(max_message_size=10)
        with pytest.raises(FrozenInstanceError):
            options.max_message_size = 20  # type: ignore[misc]

    def test_every_limit_is_positive(self) -> None:
        """By default everything is limited, and no limit is zero."""
        options = Options()
        assert options.max_message_size > 0
        assert options.max_unread_messages > 0
        assert options.max_unsent_bytes > 0
        assert options.close_timeout > 0
