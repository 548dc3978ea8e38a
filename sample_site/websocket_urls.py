"""The sockets: an ordinary URLconf."""

from django.urls import include, path

from django_wsmux.html import StreamView

from . import sockets

urlpatterns = [
    path("chat/", sockets.Chat.as_view(), name="chat"),
    path("crowd/", sockets.Crowd.as_view(), name="crowd"),
    # For the elements of {% websocket_stream %}, on all pages.
    path("streams/", StreamView.as_view(), name="streams"),
    path("auction/<int:pk>/", sockets.Auction.as_view(), name="lot"),
    path("notify/", sockets.Notifications.as_view(), name="notify"),
    path("redis-chat/", sockets.redis_chat, name="redis-chat"),
    path("echo/", sockets.echo, name="echo"),
    path("ping/", sockets.ping, name="ping"),
    # Keeps the admin's page of sockets up to date.
    path("admin/sockets/", include("django_wsmux.monitoring.page")),
]
