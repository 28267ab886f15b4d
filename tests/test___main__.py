"""`python -m sparring` is the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.config import Config
from tests.support.commands import run_command


def test_it_answers_as_the_command_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    schema = run_command("config", "schema")
    assert (schema.code, schema.err) == (0, "") and json.loads(schema.out) == Config.model_json_schema()
    refused = run_command("status", "nowhere")
    assert (refused.code, refused.out) == (2, "") and "nowhere is not a run folder" in refused.complaint
