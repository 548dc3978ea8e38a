from django import forms
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.exceptions import ValidationError
from django.db import transaction
from django.shortcuts import get_object_or_404
from django_wsmux.groups import Group
from django_wsmux.views import FormWebSocketView

from desk.models import Line, Ticket


class Desk(LoginRequiredMixin, FormWebSocketView):
    forms = {}

    def get_groups(self):
        return ["notices", "tickets"] if self.request.user.is_staff else ["notices"]

    def connect(self, request):
        self.enter("agents", is_present=request.user.is_staff)

    def enter(self, group, is_present=True):
        user = self.request.user
        Group(group).presence(self.websocket, user.pk if is_present else None, {"name": str(user)})


class Chat(Desk):
    forms = {"claim": forms.Form, "say": forms.modelform_factory(Line, fields=["text"])}
    limits = {"say": "20/m"}
    once = True

    def tickets(self):
        return Ticket.objects.visible_to(self.request.user).filter(pk=self.kwargs["pk"])

    def connect(self, request, pk):
        get_object_or_404(self.tickets())
        super().connect(request)
        self.enter(f"ticket.{pk}")

    @transaction.atomic
    def claim_valid(self, form):
        user = self.request.user
        if not (user.is_staff and self.tickets().filter(agent=None).update(agent=user)):
            raise ValidationError("You cannot claim this ticket.", code="claimed")
        self.tickets().get().show()

    @transaction.atomic
    def say_valid(self, form):
        line = form.save(commit=False)
        line.ticket_id, line.user = self.kwargs["pk"], self.request.user
        line.save()
        line.show()
