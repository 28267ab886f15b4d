"""The command line: names, options and output of the commands. What they do is in sparring.commands."""

from sparring.cli.app import main

__all__ = ["main"]
