"""Contexts of handshakes: which variables they contain."""

from __future__ import annotations

from contextvars import ContextVar, copy_context

from django_wsmux.server import own_context

foreign = ContextVar("foreign", default="")
agents = ContextVar("elasticapm_spans_var", default="")


def test_new_variables_only() -> None:
    """A handshake does not see the variables of earlier requests, except those of agents."""

    def earlier() -> None:
        foreign.set("of another request")
        agents.set("of an agent")
        seen = own_context.run(lambda: (foreign.get(), agents.get(), own_context.mark.get()))
        assert seen == ("", "of an agent", True)
        assert foreign.get() == "of another request"
        assert own_context.mark.get() is False

    copy_context().run(earlier)
