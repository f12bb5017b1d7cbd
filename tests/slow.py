"""Cases of a test that `make test-all` alone runs."""

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Return values for `parametrize`, each marked as slow."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
