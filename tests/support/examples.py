"""Runs the commands that the examples give, for two steps."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

from sparring.cli.app import split
from sparring.commands.train import Result, train
from sparring.config import load

ROOT = Path(__file__).parents[2]
CHEAP = {
    "data.limit": "64",
    "train.batch_size": "16",
    "train.max_steps": "2",
    "attack.steps": "2",
    "evaluation.steps": "1",
    "evaluation.restarts": "1",
    "evaluation.samples": "20",
}


def commands_of(example: Path) -> list[list[str]]:
    """The words after `sparring` of each command in the example's docstring."""
    docstring = ast.get_docstring(ast.parse(example.read_text())) or ""
    lines = docstring.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("    sparring train")]


def run_command_of(example: Path, root: Path) -> Result:
    """Train as it says, on few examples, with `root` in the place of runs/; the result of its last command.

    Its other paths are relative to the repository, which must be the present folder.
    """
    results = [_run(example, words, root) for words in commands_of(example)]
    return results[-1]


def _run(example: Path, words: list[str], root: Path) -> Result:
    own, settings = split(words)
    if own != ["train"]:
        raise ValueError(f"{example}: {own} is not `sparring train` with settings alone")
    placed = {name: value.replace("runs/", f"{root}/") for name, value in settings.items()}
    return train(load(None, {**placed, **CHEAP, "run.root": str(root)}))
