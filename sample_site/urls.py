"""The pages. The socket of each page has the same path, in websocket_urls.py."""

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.contrib.staticfiles.views import serve
from django.urls import path, re_path

from . import views

urlpatterns = [
    path("", views.Page.as_view(template_name="sample_site/index.html"), name="index"),
    path("chat/", views.chat_page, {"socket_name": "chat"}, name="chat"),
    path("redis-chat/", views.chat_page, {"socket_name": "redis-chat"}, name="redis-chat"),
    path("crowd/", views.crowd, name="crowd"),
    path("crowd/come/", views.let_crowd_come, name="crowd-come"),
    path("crowd/go/", views.let_crowd_go, name="crowd-go"),
    path("crowd/<uuid:sender>/<int:number>/", views.send_number, name="crowd-send"),
    path("crowd/workers/", views.workers, name="crowd-workers"),
    path("board/", views.board, name="board"),
    path("board/<int:pk>/", views.card, name="card"),
    path("board/<int:pk>/move/", views.move_card, name="card-move"),
    path("board/<int:pk>/delete/", views.delete_card, name="card-delete"),
    path("auction/", views.auction, name="auction"),
    path("auction/<int:pk>/", views.lot, name="lot"),
    path("notify/", views.notify_page, name="notify"),
    path("notify/send/", views.notify, name="notify-send"),
    path("sign-in/", views.sign_in, name="sign-in"),
    path("sign-out/", LogoutView.as_view(next_page="notify"), name="sign-out"),
    path("echo/", views.Page.as_view(template_name="sample_site/echo.html"), name="echo"),
    path("ping/", views.Page.as_view(template_name="sample_site/ping.html"), name="ping"),
    path("admin/", admin.site.urls),
    # The playground serves its own files; a real site leaves that to WhiteNoise or nginx.
    re_path(r"^static/(?P<path>.*)$", serve, {"insecure": True}),
]
