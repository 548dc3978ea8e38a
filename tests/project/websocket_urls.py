"""Sockets."""

from django.urls import include, path, re_path

from . import sockets

rooms = ([path("<slug:slug>/", sockets.room, name="room")], "rooms")

urlpatterns = [
    path("echo/", sockets.echo, name="echo"),
    path("plain-echo/", sockets.plain_echo),  # type: ignore[arg-type]  # returns None
    path("meta-echo/", sockets.meta_echo),
    path("loop/", sockets.loop),
    path("status/<int:status>/", sockets.status),
    path("late-status/<int:status>/", sockets.late_status),
    path("crash/", sockets.crash),
    path("crash-before/", sockets.crash_before),
    path("missing/", sockets.missing),
    path("denied/", sockets.denied),
    path("private/", sockets.private),
    path("staff/", sockets.staff),
    path("stacked/", sockets.stacked),
    path("rooms/", include(rooms)),
    path("number/<int:number>/", sockets.number),
    re_path(r"^regex/(?P<year>[0-9]{4})/$", sockets.year),
    path("unwound/", sockets.unwound),
    path("session/", sockets.session),
    path("subprotocol/", sockets.subprotocol),
    path("closing/<int:code>/<reason>/", sockets.closing),
    path("report/<key>/", sockets.report),
    path("select/", sockets.selecting),
    path("language/", sockets.language),
    path("reverse/", sockets.reversing),
    path("spawn/", sockets.spawning),
    path("atomic/", sockets.atomic),
    path("database/", sockets.database),
    path("group/", sockets.group),
    path("timeout/", sockets.timeout),
    path("flood/", sockets.flood),
    path("flood-report/<key>/", sockets.flood_report),
    path("late-echo/<key>/", sockets.late_echo),
    path("silent/", sockets.silent),
    path("ping-me/", sockets.ping_me),
    path("coming-and-going/", sockets.coming_and_going),
    path("farewell/", sockets.farewell),
    path("form/", sockets.form),
]
