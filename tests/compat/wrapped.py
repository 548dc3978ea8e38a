"""The test project wrapped in WhiteNoise's WSGI middleware."""

from __future__ import annotations

from pathlib import Path

from whitenoise import WhiteNoise

from tests.project.wsgi import application as project

__all__ = ["application"]

application = WhiteNoise(project, root=str(Path(__file__).parent / "files"), prefix="files/")
