"""Identify the user of a socket, with or without cookies; close the sockets of a user."""

from ..groups.identity import AuthenticationFailed
from ..groups.users import disconnect
from .authenticators import authentication, bearer, first_message
from .tickets import issue_ticket, ticket

__all__ = [
    "AuthenticationFailed",
    "authentication",
    "bearer",
    "disconnect",
    "first_message",
    "issue_ticket",
    "ticket",
]
