"""Tables of the board and the auction."""

from __future__ import annotations

from typing import Any, ClassVar

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

ID = models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")
AMOUNT = [
    django.core.validators.MinValueValidator(1),
    django.core.validators.MaxValueValidator(9_999_999),
]
COLUMNS = [("todo", "To do"), ("doing", "Doing"), ("done", "Done")]


class Migration(migrations.Migration):
    """Creates the tables."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="Card",
            fields=[
                ("id", ID),
                ("title", models.CharField(max_length=80)),
                ("column", models.CharField(choices=COLUMNS, default="todo", max_length=10)),
                (
                    "moved",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
            ],
            options={"ordering": ("moved", "pk")},
        ),
        migrations.CreateModel(
            name="Lot",
            fields=[
                ("id", ID),
                ("title", models.CharField(max_length=80)),
                ("price", models.PositiveIntegerField(validators=AMOUNT)),
                ("bidder", models.CharField(blank=True, editable=False, max_length=30)),
                ("ends", models.DateTimeField(editable=False)),
            ],
            options={"ordering": ("-pk",)},
        ),
        migrations.CreateModel(
            name="Bid",
            fields=[
                ("id", ID),
                ("bidder", models.CharField(max_length=30, verbose_name="name")),
                ("amount", models.PositiveIntegerField(validators=AMOUNT, verbose_name="bid")),
                (
                    "lot",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="bids",
                        to="sample_site.lot",
                    ),
                ),
            ],
            options={"ordering": ("-amount",)},
        ),
    ]
