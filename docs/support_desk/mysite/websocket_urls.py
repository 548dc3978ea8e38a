from django.urls import path

from desk import sockets

urlpatterns = [path("", sockets.Desk.as_view()), path("tickets/<int:pk>/", sockets.Chat.as_view())]
