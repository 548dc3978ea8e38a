"""The cards of the board, and the lots of the auction with their bids."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.utils import timezone

from django_wsmux.html import broadcast, broadcasts

__all__ = ["Bid", "Card", "Lot"]

#: Amounts have up to seven digits.
AMOUNT = [MinValueValidator(1), MaxValueValidator(9_999_999)]


@broadcasts(group="board", template="sample_site/card.html", container=lambda card: card.column)
class Card(models.Model):
    """A card of the board. It goes to the end of each column that it is moved to."""

    class Column(models.TextChoices):
        """The columns, from left to right."""

        TODO = "todo", "To do"
        DOING = "doing", "Doing"
        DONE = "done", "Done"

    title = models.CharField(max_length=80)
    column = models.CharField(max_length=10, choices=Column, default=Column.TODO)
    moved = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("moved", "pk")

    def __str__(self) -> str:
        return self.title

    def move_to(self, column: str) -> None:
        """Move the card to the end of a column."""
        self.column = column
        self.moved = timezone.now()
        self.save(update_fields=["column", "moved"])

    @property
    def left(self) -> Column | None:
        """The column to the left of the card's own."""
        return self._neighbour(-1)

    @property
    def right(self) -> Column | None:
        """The column to the right of the card's own."""
        return self._neighbour(1)

    def _neighbour(self, step: int) -> Column | None:
        columns = list(self.Column)
        index = columns.index(self.Column(self.column)) + step
        return columns[index] if 0 <= index < len(columns) else None


@broadcasts(group="auction", template="sample_site/lot.html", format="htmx", insert="prepend")
class Lot(models.Model):
    """Something that is sold to the highest bidder.

    ``price`` is the highest bid; before the first one, what the owner asks for.
    """

    title = models.CharField(max_length=80)
    price = models.PositiveIntegerField(validators=AMOUNT)
    bidder = models.CharField(max_length=30, blank=True, editable=False)
    ends = models.DateTimeField(editable=False)

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return self.title

    @property
    def has_ended(self) -> bool:
        """Whether no more bids are accepted."""
        return self.ends <= timezone.now()


@broadcasts(
    group=lambda bid: f"auction.{bid.lot_id}",
    template="sample_site/bid.html",
    format="htmx",
    insert="prepend",
)
class Bid(models.Model):
    """An accepted bid."""

    lot = models.ForeignKey(Lot, models.CASCADE, related_name="bids")
    bidder = models.CharField("name", max_length=30)
    amount = models.PositiveIntegerField("bid", validators=AMOUNT)

    class Meta:
        ordering = ("-amount",)

    def __str__(self) -> str:
        return f"{self.amount} by {self.bidder}"

    def place(self) -> bool:
        """Accept the bid if it is still the highest and not late; return whether it is."""
        with transaction.atomic():
            # Of two equal bids at the same time, only one finds a lower price.
            lots = Lot.objects.filter(
                pk=self.lot_id, price__lt=self.amount, ends__gt=timezone.now()
            )
            if not lots.update(price=self.amount, bidder=self.bidder):
                return False
            self.save()
            broadcast(self.lot)  # update() sends no signal
        return True
