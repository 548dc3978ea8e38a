"""Private: history of groups. It numbers, keeps and reads messages."""

__all__: list[str] = []
