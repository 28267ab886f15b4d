"""Known weaknesses of the packages that are installed, and risky code of our own: make audit

bandit reads the package. pip-audit asks PyPI's advisories about every installed package; where that database cannot be
reached, or does not know a weakness that has long been published, it says `not run` and counts as neither passed nor
failed. With --strict that is a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KNOWN = "jinja2==2.10"  # its sandbox escape was published in 2019: whoever does not know it has no advisories
TIMEOUT_S = "15"
# Findings that do not concern Sparring, by their id, each with its reason.
EXPLAINED: dict[str, str] = {}


@dataclass(frozen=True)
class Verdict:
    """failed: what to mend; notes: what else is to be known."""

    failed: list[str]
    notes: list[str]


def judge(dependencies: list[dict[str, Any]], explained: dict[str, str]) -> Verdict:
    """What pip-audit reported on the packages: a weakness without an explanation fails."""
    failed, notes = list[str](), list[str]()
    for each in dependencies:
        for found in each.get("vulns", []):
            names = {found["id"], *found.get("aliases", [])}
            text = f"{each['name']} {each['version']}: {found['id']}, mended in {found['fix_versions'] or 'no version'}"
            reasons = [explained[name] for name in sorted(names) if name in explained]
            (notes if reasons else failed).append(f"{text} ({reasons[0]})" if reasons else text)
    skipped = sorted(each["name"] for each in dependencies if "skip_reason" in each)
    if skipped:
        notes.append(f"no advisories on {len(skipped)} of {len(dependencies)}: {', '.join(skipped)}")
    return Verdict(failed, notes)


def knows_advisories() -> bool:
    """Whether the database can be reached and knows the weakness of KNOWN."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(KNOWN + "\n")
        file.flush()
        found = asked("--requirement", file.name, "--no-deps", "--disable-pip")
    return found is not None and any(each.get("vulns") for each in found)


def asked(*options: str) -> list[dict[str, Any]] | None:
    """What pip-audit reports of each package; None where it could not ask."""
    words = ["--format", "json", "--progress-spinner", "off", "--timeout", TIMEOUT_S, *options]
    done = subprocess.run([sys.executable, "-m", "pip_audit", *words], capture_output=True, text=True)
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return dependencies


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(strict: bool) -> int:
    code = subprocess.run(
        [sys.executable, "-m", "bandit", "--quiet", "--recursive", "sparring", "--configfile", "pyproject.toml"],
        cwd=ROOT,
    ).returncode
    say("bandit: no finding" if code == 0 else "bandit: see above; mend it, or say in `# nosec ID  # reason` why not")
    found = asked("--local", "--skip-editable") if knows_advisories() else None
    if found is None:
        say("pip-audit: NOT RUN: no database of advisories can be reached; nothing is known of the packages")
        return code or int(strict)
    verdict = judge(found, EXPLAINED)
    for line in verdict.notes:
        say(f"pip-audit: {line}")
    for line in verdict.failed:
        say(f"pip-audit: FAILED: {line}")
    say(f"pip-audit: {len(found)} packages, {len(verdict.failed)} unexplained findings")
    return code or int(bool(verdict.failed))


if __name__ == "__main__":
    sys.exit(main("--strict" in sys.argv[1:]))
