"""Makes a process use the code in Python: see ``PYTHON_ONLY`` in ``implementations.py``."""

import sys

sys.modules["django_wsmux.connection._reactor"] = None  # type: ignore[assignment]
