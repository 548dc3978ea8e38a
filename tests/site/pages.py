"""The pages of the site under test."""

from django.http import HttpResponse
from django.urls import path

from tests.site import sockets as site

urlpatterns = [
    path("page/", site.page),
    path("login/", lambda request: HttpResponse("who are you"), name="login"),
]
