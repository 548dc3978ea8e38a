"""An app with the users of a project: their keys are UUIDs, and they have no names to sign in."""

__all__: list[str] = []
