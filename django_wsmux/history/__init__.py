"""Private: history of groups. It numbers messages, keeps them, and reads them again."""

__all__: list[str] = []
