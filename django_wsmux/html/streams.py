"""The view whose sockets follow the groups that pages name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponseBase

from ..exceptions import BackendUnavailable
from ..groups import Group
from ..requests import ERRORS, current
from ..views import FormWebSocketView
from . import names

__all__ = ["Follow", "StreamView", "Unfollow"]

#: Messages of the errors with which this view answers, by their codes.
_ERRORS: Final = {
    "expired": "This name has expired: load the page again.",
    "foreign": "This name was signed for another user, session or group prefix.",
    "invalid": "This name is not valid.",
}


@dataclass
class Follow:
    """Asks for the messages of a group.

    Attributes:
        signed: the name that ``{% websocket_stream %}`` has rendered.
        at: the position up to which the page has the messages.
    """

    signed: str
    at: str | None = None


@dataclass
class Unfollow:
    """Asks for no further messages of a group.

    Attributes:
        signed: see ``Follow``.
    """

    signed: str


class StreamView(FormWebSocketView):
    """A view for the elements ``<websocket-stream>`` of all pages.

    It needs one URL in ``WEBSOCKET_URLCONF``; ``{% websocket_stream %}`` finds it. Its sockets
    follow the groups whose signed names pages send, so the permission to follow a group is that to
    render it::

        urlpatterns = [path("ws/streams/", StreamView.as_view())]

    A name is accepted for seven days, from pages of the same user, or of the same session if no
    user is signed in; see also ``may_follow()``.

    Attributes:
        max_streams: how many groups one socket may follow.
    """

    forms: ClassVar[Mapping[str, type[Any]]] = {"follow": Follow, "unfollow": Unfollow}
    keep_request = False
    max_streams = 100

    #: Whom the names are signed for.
    owner: str
    #: The names of the groups that the socket follows.
    followed: set[str]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Note the user of the handshake, and answer it."""
        self.owner = names.owner_of(request)
        self.followed = set()
        return super().dispatch(request, *args, **kwargs)

    def may_follow(self, group: Group) -> bool:
        """Return whether a client that has the signed name of a group may follow it now.

        By default it may. A page can follow a group for seven days after it was rendered, and again
        after ``Group.remove()``; override this method to ask whether that is still allowed. It is
        called before and after the socket joins. Set ``keep_request = True`` to use
        ``self.request``.

        Args:
            group: the group.

        Example::

            class Streams(StreamView):
                keep_request = True

                def may_follow(self, group):
                    return Room.objects.filter(
                        group_name=group.name, people=self.request.user
                    ).exists()
        """
        return True

    def follow_valid(self, message: Follow) -> Any:
        """Join a group, answer, then send what the page has missed.

        Returns:
            The name by which the client knows the group, and whether it gets all messages after its
            position. The client ignores the group's messages that came before this answer.
        """
        try:
            group = names.verify(message.signed, self.owner)
        except names.RejectedName as error:
            raise _error("signed", _ERRORS[error.code], error.code) from None
        if group.name not in self.followed and len(self.followed) >= self.max_streams:
            text = f"A socket follows at most {self.max_streams} groups."
            raise _error("signed", text, "too_many")
        self._require_permission(group)
        # Messages of groups wait until the answer is sent.
        self.websocket.hold()
        try:
            recovered = self._join(group, message.at)
            try:
                # It may have ended before the socket was in the group.
                self._require_permission(group)
            except ValidationError:
                self._leave(group)
                raise
            request = current(self.websocket)
            if request is not None:
                request.reply({"in": names.shown(group.name), "recovered": recovered})
        finally:
            self.websocket.release()
        return None

    def _join(self, group: Group, at: str | None) -> bool | None:
        """Join a group; return whether the client gets all messages after a position."""
        is_own = group.name[0] == "@"
        if at is not None and not group.has_history:
            # It had one when the page was rendered.
            self._join(group, None)
            return False
        if is_own and at is None:
            return None  # signed-in sockets are in the group of their user
        try:
            recovery = group.join(self.websocket, since=at)
        except ValueError:
            raise _error("at", "This is not a position.", "invalid") from None
        except BackendUnavailable:
            raise _error("signed", ERRORS["unavailable"], "unavailable") from None
        if is_own:
            self.websocket.cancel_on_close(group.key())
        else:
            self.followed.add(group.name)
        return recovery.recovered

    def unfollow_valid(self, message: Unfollow) -> None:
        """Leave a group."""
        try:
            group = names.verify(message.signed, self.owner, max_age=None)
        except names.RejectedName as error:
            raise _error("signed", _ERRORS[error.code], error.code) from None
        self._leave(group)

    def _require_permission(self, group: Group) -> None:
        if not self.may_follow(group):
            raise _error("signed", "You may not follow this group any more.", "denied")

    def _leave(self, group: Group) -> None:
        if group.name in self.followed:
            self.followed.discard(group.name)
            group.leave(self.websocket)


def _error(field: str, text: str, code: str) -> ValidationError:
    return ValidationError({field: ValidationError(text, code)})
