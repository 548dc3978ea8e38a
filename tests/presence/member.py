"""A process that enters keys in a group, follows it, and removes dead processes.

Arguments: the URL of the store, the namespace, the process, its first key and the number of keys.
It prints a line when it knows of all keys that are expected, one for each key that has left, and
one for each group that it reports. It ends at the end of its standard input.
"""

from __future__ import annotations

import os
import select
import sys

from .contract import GROUP, LONG


def main(url: str, namespace: str, process: str, first: str, count: str) -> None:
    """Run the process."""
    import django
    from django.conf import settings

    if "DJANGO_SETTINGS_MODULE" in os.environ:
        django.setup()
    else:
        settings.configure()

    from django_wsmux.presence.store import Entry, PresenceStore
    from django_wsmux.presence.stores import store_from_url

    PresenceStore.leaving_seconds = PresenceStore.left_seconds = LONG
    store = store_from_url(url, namespace, None)
    keys = [f"k{number}" for number in range(int(first), int(first) + int(count))]
    store.enter(GROUP, [Entry(key, key, "null") for key in keys], process)
    known: set[str] = set()
    version, is_complete = "", False
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        if not store.renew(process):
            print("again", flush=True)
        if store.changed({GROUP: version}):
            reading = store.read(GROUP, version)
            version = reading.version
            known.update(person.key for person in reading.joined)
            for key in reading.left:
                known.remove(key)
                print("left", key, flush=True)
        if len(known) == 4 * int(count) and not is_complete:
            is_complete = True
            print("complete", flush=True)
        for name, _ in store.expire():
            print("report", name, flush=True)
    print("known", len(known), flush=True)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
