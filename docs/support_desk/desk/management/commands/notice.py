from django.core.management import BaseCommand
from django_wsmux.groups import Group


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("text")

    def handle(self, *, text, **options):
        Group("notices").send_json({"type": "notice", "text": text})
