"""The code blocks of a page, run as they stand."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from sparring.cli import main

FENCE = re.compile(r"^```(python|toml|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|toml))\n")


class Block(NamedTuple):
    """language: python, toml or sh; file: the name that its first line gives, which it is to be saved under."""

    language: str
    text: str
    file: str | None


def blocks_by_section(page: Path) -> dict[str, list[Block]]:
    """The blocks below each heading of the second level; those above the first one under ""."""
    first, *others = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    sections = {"": first, **{text.partition("\n")[0]: text for text in others}}
    return {heading: _blocks(text) for heading, text in sections.items()}


def python_of(page: Path) -> str:
    """Its Python blocks as one program."""
    blocks = [block for section in blocks_by_section(page).values() for block in section]
    return "\n".join(block.text for block in blocks if block.language == "python")


def _blocks(text: str) -> list[Block]:
    found = []
    for language, body in FENCE.findall(text):
        named = FILE.match(body)
        found.append(Block(language, body, named.group(1) if named else None))
    return found


def run_block(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save it, or run it in this process: Python, or commands of `sparring`."""
    if block.file is not None:
        Path(block.file).write_text(block.text)
    elif block.language == "python":
        exec(compile(block.text, "block", "exec"), {"__name__": "block"})
    else:
        for line in block.text.replace("\\\n", " ").splitlines():
            _run_command(shlex.split(line, comments=True), monkeypatch)


def _run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[:1] != ["sparring"]:
        raise ValueError(f"{words} is no command of sparring; a block that cannot be run here is ```console")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, f"{shlex.join(words)} ended with {ended.value.code}"
