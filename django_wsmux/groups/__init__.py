"""Groups: send to many sockets at once, from anywhere."""

from .group import Group, Member
from .results import History, Message, Present, Recovery

__all__ = ["Group", "History", "Member", "Message", "Present", "Recovery"]
