"""A training run stopped where it hurts: inside a step."""

from __future__ import annotations


class Interruption(BaseException):
    """As sudden as a signal, but in this process."""
