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


def command_of(example: Path) -> list[str]:
    """The words after `sparring` of the command in the example's docstring."""
    docstring = ast.get_docstring(ast.parse(example.read_text())) or ""
    lines = docstring.replace("\\\n", " ").splitlines()
    return shlex.split(next(line for line in lines if line.startswith("    sparring train")))[1:]


def run_command_of(example: Path, root: Path) -> Result:
    """Train as it says, on few examples; its paths are relative to the repository, which must be the present folder."""
    words, settings = split(command_of(example))
    if words != ["train"]:
        raise ValueError(f"{example}: {words} is not `sparring train` with settings alone")
    return train(load(None, {**settings, **CHEAP, "run.root": str(root)}))
