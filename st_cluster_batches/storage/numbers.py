"""Numbers: whole ones as people pass them, of Python or numpy, and the error of values that are none."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any


class DivergedError(ValueError):
    """A model with NaN or infinite values, in its weights or in its vectors."""


def as_count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number as one of Python.

    Args:
        name: The argument, for the message.
        value: What the user passes.
        least: The least number that has a meaning.

    Raises:
        ValueError: If it is no whole number, or too small.
    """
    try:
        if type(value).__name__ in ("bool", "bool_"):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number, such as {name}={max(least, 10)}") from None
    if number < least:
        raise ValueError(f"{name}={number} must be at least {least}")
    return number


def as_number(name: str, value: Any) -> float:
    """Return a number, whole or not, as one of Python.

    Args:
        name: The argument, for the message.
        value: What the user passes.

    Raises:
        ValueError: If it is none, such as a word of a file that nobody has read as a number.
    """
    if not isinstance(value, Real) or type(value).__name__ in ("bool", "bool_"):
        raise ValueError(f"{name}={value!r} must be a number, not a {type(value).__name__}")
    return float(value)
