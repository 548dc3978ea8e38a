"""Fixtures that try the C extension and its replacement in Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_wsmux.protocol import codec, masking


@pytest.fixture(scope="module", params=["C", "Python"])
def unmasking(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make the codec unmask with the extension, then without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "C":
            reason = "there was no compiler when the package was installed"
            pytest.importorskip("django_wsmux.protocol._speedups", reason=reason)
        else:
            patch.setattr(codec, "unmask", masking._unmask)
            patch.setattr(codec, "unmask_ascii", masking._unmask_ascii)
        yield
