"""The command: words and options only."""

from sparring.cli.app import main

__all__ = ["main"]
