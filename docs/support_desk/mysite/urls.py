from django.urls import include, path

from desk import views

urlpatterns = [
    path("", views.home, name="home"),
    path("tickets/<int:pk>/", views.ticket, name="ticket"),
    path("accounts/", include("django.contrib.auth.urls")),
    path("wsmux/", include("django_wsmux.urls")),
]
