"""A view whose requests run at most once, for ``tests/handlers/test_once.py``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.urls import path

from django_wsmux.handlers import once
from django_wsmux.views import FormWebSocketView
from tests.project.gates import wait

# Tests in which a process dies would otherwise take 15 s each.
once.SILENCE = float(os.environ["TEST_SILENCE"])  # type: ignore[misc]
once.INTERVAL = 0.1  # type: ignore[misc]


class DoForm(forms.Form):
    folder = forms.CharField()
    name = forms.CharField(required=False)
    gate = forms.CharField(required=False)
    fails = forms.CharField(required=False)


class Doing(FormWebSocketView):
    """Adds a line to a file, which all processes share."""

    once = True
    forms = {"do": DoForm}  # noqa: RUF012

    def do_valid(self, form: Any) -> dict[str, Any]:
        data = form.cleaned_data
        with (Path(data["folder"]) / "effects").open("a") as effects:
            effects.write(f"{os.getpid()} {data['name']}\n")
        if data["gate"]:
            wait(data["folder"], "started")
        match data["fails"]:
            case "error":
                raise ValidationError("The room is full.", code="full")
            case "crash":
                raise LookupError("it broke")
        return {"pid": os.getpid()}


urlpatterns = [path("do/", Doing.as_view())]
