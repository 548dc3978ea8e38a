"""Groups: send to many sockets at once, from anywhere."""

from .group import Group, Member

__all__ = ["Group", "Member"]
