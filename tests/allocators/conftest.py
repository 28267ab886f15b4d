"""Digits, and a network that knows them a little."""

from tests.support.digits import digits, model

__all__ = ["digits", "model"]
