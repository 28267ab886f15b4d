"""`make audit`: a weakness without an explanation fails, and what nobody was asked about does not count as sound."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOUND = {"name": "sound", "version": "1", "vulns": []}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}
WEAK = {
    "name": "weak",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"], "description": ""}],
}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # where its dataclass looks for its own names
    spec.loader.exec_module(module)
    return module


def test_a_weakness_fails_unless_its_reason_is_given(audit: ModuleType) -> None:
    found = audit.judge([SOUND, WEAK], {})
    assert found.failed == ["weak 2: PYSEC-1, mended in ['3']"] and found.notes == []
    for name in ("PYSEC-1", "CVE-1"):
        explained = audit.judge([WEAK], {name: "not called"})
        assert explained.failed == [] and "not called" in explained.notes[0]


def test_packages_without_an_answer_are_named(audit: ModuleType) -> None:
    assert audit.judge([SOUND, UNKNOWN], {}).notes == ["no advisories on 1 of 2: unknown"]


@pytest.mark.parametrize(("found", "known"), [(None, False), ([UNKNOWN], False), ([SOUND], False), ([WEAK], True)])
def test_a_database_that_does_not_know_what_was_long_published_is_none(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, found: Any, known: bool
) -> None:
    monkeypatch.setattr(audit, "asked", lambda *options: found)
    assert audit.knows_advisories() is known


def test_without_a_database_it_says_not_run_which_fails_where_it_must_not_be_missing() -> None:
    pytest.importorskip("pip_audit")
    nowhere = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": ""}
    words = [sys.executable, str(ROOT / ".ci" / "audit.py"), "--strict"]  # CI runs it without
    done = subprocess.run(words, capture_output=True, text=True, env=nowhere)
    assert done.returncode == 1 and "pip-audit: NOT RUN" in done.stdout and "bandit: no finding" in done.stdout


def test_every_exception_has_its_reason() -> None:
    bare = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "sparring").rglob("*.py")
        for line in path.read_text().splitlines()
        if "nosec" in line and not re.search(r"# nosec (B\d{3} ?)+ # \w{3,}", line)
    ]
    assert bare == []
