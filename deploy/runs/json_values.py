"""Values as JSON can hold them."""

from __future__ import annotations

import math
from typing import Any


def without_nan(value: Any) -> Any:
    """The value with null for NaN and infinities at any depth: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(below) for key, below in value.items()}
    if isinstance(value, list):
        return [without_nan(below) for below in value]
    return value
