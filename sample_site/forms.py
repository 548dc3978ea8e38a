"""Forms that validate messages, just as they validate requests."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.auth.models import User
from django.utils import timezone

from .models import Bid, Card, Lot

__all__ = [
    "BidForm",
    "CardForm",
    "LineForm",
    "LotForm",
    "MoveForm",
    "NameForm",
    "NotificationForm",
    "ReportForm",
    "SignInForm",
]


class LineForm(forms.Form):
    """One line of the chat."""

    user = forms.CharField(max_length=30, required=False, empty_value="guest")
    colour = forms.RegexField(r"\A#[0-9a-fA-F]{6}\Z", required=False, empty_value="#5b6472")
    text = forms.CharField(max_length=500)

    def as_message(self) -> dict[str, Any]:
        """Return the message for all windows."""
        return {field: self.cleaned_data[field] for field in ("user", "colour", "text")}


class NameForm(forms.Form):
    """The name of a participant, which is also the key of the presence."""

    name = forms.RegexField(
        r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*$", max_length=30, required=False, empty_value="guest"
    )


class ReportForm(forms.Form):
    """What has happened to the clients of the crowd."""

    open = forms.IntegerField(min_value=0)
    received = forms.IntegerField(min_value=0)
    lost = forms.IntegerField(min_value=0)
    doubled = forms.IntegerField(min_value=0)
    returned = forms.IntegerField(min_value=0)


class SignInForm(forms.Form):
    """The user's name. It is enough in a playground, except for users who have a password."""

    username = forms.SlugField(max_length=30)

    def clean_username(self) -> str:
        """Refuse users with a password: they sign in at /admin/."""
        username: str = self.cleaned_data["username"]
        user = User.objects.filter(username=username).first()
        if user is not None and user.has_usable_password():
            raise forms.ValidationError("This user has a password: sign in at /admin/.")
        return username

    def get_user(self) -> User:
        """Return the user of that name, creating it if necessary."""
        username = self.cleaned_data["username"]
        user = User.objects.filter(username=username).first()
        return user or User.objects.create_user(username)


class NotificationForm(forms.Form):
    """A line for one user."""

    to = forms.ModelChoiceField(
        User.objects.order_by("username"), to_field_name="username", empty_label=None
    )
    text = forms.CharField(max_length=500)


class CardForm(forms.ModelForm):  # type: ignore[type-arg]
    """The title of a card, for a new one or to rename it."""

    class Meta:
        model = Card
        fields = ("title",)


class MoveForm(forms.ModelForm):  # type: ignore[type-arg]
    """The column that a card is moved to."""

    class Meta:
        model = Card
        fields = ("column",)


class LotForm(forms.ModelForm):  # type: ignore[type-arg]
    """Something to sell, and for how long."""

    minutes = forms.IntegerField(min_value=1, max_value=60, initial=10)

    class Meta:
        model = Lot
        fields = ("title", "price")

    def clean(self) -> None:
        """Compute when the auction ends."""
        super().clean()
        minutes = self.cleaned_data.get("minutes", 0)
        self.instance.ends = timezone.now() + timedelta(minutes=minutes)


class BidForm(forms.ModelForm):  # type: ignore[type-arg]
    """A bid for the lot of its ``instance``."""

    #: The error of a bid that was valid a moment ago.
    overtaken = "Someone else was faster."

    class Meta:
        model = Bid
        fields = ("bidder", "amount")

    def clean(self) -> None:
        """Refuse a bid that is late or too low."""
        super().clean()
        lot = self.instance.lot
        if lot.has_ended:
            raise forms.ValidationError("The auction has ended.")
        amount = self.cleaned_data.get("amount")
        if amount is not None and amount <= lot.price:
            self.add_error("amount", f"Bid more than {lot.price}.")
