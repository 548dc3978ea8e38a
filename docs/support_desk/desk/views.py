from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.forms import modelform_factory
from django.shortcuts import get_object_or_404, redirect, render
from django_wsmux.decorators import resumable

from desk.models import Ticket

TicketForm = modelform_factory(Ticket, fields=["subject"])


@resumable("tickets", "@user")
@login_required
def home(request):
    form = TicketForm(request.POST or None, instance=Ticket(customer=request.user))
    if form.is_valid():
        with transaction.atomic():
            form.save().show()
        return redirect(form.instance)
    tickets = Ticket.objects.visible_to(request.user).select_related("customer", "agent")
    return render(request, "desk/home.html", {"form": form, "tickets": tickets})


@resumable("ticket.{pk}")
@login_required
def ticket(request, pk):
    ticket = get_object_or_404(Ticket.objects.visible_to(request.user), pk=pk)
    lines = ticket.line_set.select_related("user").order_by("pk")
    return render(request, "desk/ticket.html", {"ticket": ticket, "lines": lines})
