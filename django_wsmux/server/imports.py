"""Reads the imports of a module from its source, without importing it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["imported_by", "is_installed"]


def imported_by(module: str) -> set[str]:
    """Return the imports of a module; none if they are unknown or include this package."""
    try:
        loader: Any = getattr(find_spec(module), "loader", None)
        tree = ast.parse(loader.get_source(module))
    except Exception:
        return set()  # Django reports it when the application is needed
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            # "from django.core import wsgi" also imports a module.
            names |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {node.value} if node.value.startswith("django_wsmux.") else set()
    is_ours = any(name.partition(".")[0] == "django_wsmux" for name in names)
    return set() if is_ours else names


def is_installed(name: str) -> bool:
    """Return whether a module belongs to the standard library or an installed package."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    spec = find_spec(top) if top else None
    return spec is not None and bool({"site-packages", "dist-packages"} & {*_parts(spec)})


def _parts(spec: ModuleSpec) -> Iterator[str]:
    for place in [spec.origin or "", *(spec.submodule_search_locations or ())]:
        yield from Path(place).parts
