"""Forms check messages as they check requests."""

from typing import Any

from django import forms

__all__ = ["LineForm"]


class LineForm(forms.Form):
    """One line of the chat."""

    user = forms.CharField(max_length=30, required=False, empty_value="guest")
    colour = forms.RegexField(r"\A#[0-9a-fA-F]{6}\Z", required=False, empty_value="#5b6472")
    text = forms.CharField(max_length=500)

    def as_message(self) -> dict[str, Any]:
        """Return what all windows are told."""
        return {field: self.cleaned_data[field] for field in ("user", "colour", "text")}
