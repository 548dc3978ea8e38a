from django.conf import settings
from django.db import models
from django.template.loader import render_to_string
from django.urls import reverse
from django_wsmux.groups import Group


class TicketQuerySet(models.QuerySet):
    def visible_to(self, user):
        return (self if user.is_staff else self.filter(customer=user)).order_by("pk")


class Ticket(models.Model):
    subject = models.CharField(max_length=100)
    customer = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    agent = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, "+", null=True)
    objects = TicketQuerySet.as_manager()

    def get_absolute_url(self):
        return reverse("ticket", args=[self.pk])

    def show(self):
        chat, customer = Group(f"ticket.{self.pk}"), Group.for_user(self.customer)
        show("ticket", self, Group("tickets"), chat, customer)


class Line(models.Model):
    ticket = models.ForeignKey(Ticket, models.CASCADE)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    text = models.CharField(max_length=500)

    def show(self):
        show("line", self, Group(f"ticket.{self.ticket_id}"))


def show(kind, item, *groups):
    html = render_to_string(f"desk/{kind}_item.html", {kind: item})
    for group in groups:
        group.send_json({"type": kind, "html": html}, on_commit=True, stored=True)
