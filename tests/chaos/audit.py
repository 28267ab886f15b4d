"""An audit of a run that knows nothing of how it was made: it reads steps.jsonl, metrics.jsonl and the checkpoints.

Of a step that was made again after a resume the last line counts; lines of steps that no later life has made again are
those of weights that are lost.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def violations(run: Path, tickets: Sequence[Sequence[int]], bound: int, *, finished: bool) -> list[str]:
    """What does not hold; empty: everything does.

    Args:
        tickets: number of examples of each ticket of each epoch. bound: staleness.max_staleness. finished: every
            ticket must have been trained on.
    """
    lines = lines_of(run / "steps.jsonl")
    kept = surviving(lines)
    found = [*_fences(lines), *_versions(lines, bound), *_tickets(kept, tickets, finished), *_steps(kept)]
    return [*found, *_counters(kept, lines_of(run / "metrics.jsonl"), tickets)]


def lines_of(path: Path) -> list[Line]:
    """The lines that are whole."""
    found = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def surviving(lines: Sequence[Line]) -> dict[int, Line]:
    """The last line of each step, up to the step of the last line of all."""
    if not lines:
        return {}
    last = lines[-1]["step"]
    return {step: line for step, line in {line["step"]: line for line in lines}.items() if step <= last}


def _fences(lines: Sequence[Line]) -> Iterator[str]:
    """Fences never fall, and steps fall only where the fence rises."""
    for before, line in itertools.pairwise(lines):
        if line["fence"] < before["fence"]:
            yield f"step {line['step']}: fence {line['fence']} after {before['fence']}"
        if line["step"] <= before["step"] and line["fence"] <= before["fence"]:
            yield f"step {line['step']} after {before['step']} under the same fence {line['fence']}"


def _versions(lines: Sequence[Line], bound: int) -> Iterator[str]:
    """Also of lines that are undone: no step may ever have crossed the bound."""
    for line in lines:
        for version in line["versions"]:
            staleness = line["step"] - 1 - version
            if not 0 <= staleness <= bound:
                yield f"step {line['step']}: version {version}, staleness {staleness}, bound {bound}"


def _steps(kept: Mapping[int, Line]) -> Iterator[str]:
    missing = set(range(1, len(kept) + 1)) - kept.keys()
    if missing:
        yield f"steps {sorted(missing)} are missing"


def _tickets(kept: Mapping[int, Line], tickets: Sequence[Sequence[int]], finished: bool) -> Iterator[str]:
    used = Counter((line["epoch"], number) for line in kept.values() for number in line["tickets"])
    every = {(epoch, number) for epoch, sizes in enumerate(tickets) for number in range(len(sizes))}
    for ticket, count in sorted(used.items()):
        if count > 1 or ticket not in every:
            yield f"ticket {ticket} was trained on {count} times"
    missing = sorted(every - used.keys())
    if finished and missing:
        yield f"tickets {missing} were never trained on"


def _counters(kept: Mapping[int, Line], metrics: Sequence[Line], tickets: Sequence[Sequence[int]]) -> Iterator[str]:
    """What metrics.jsonl counts agrees with the steps that survive."""
    examples, made = {0: 0}, 0
    for step in sorted(kept):
        line = kept[step]
        made += sum(tickets[line["epoch"]][number] for number in line["tickets"])
        examples[step] = made
    for step, line in {line["step"]: line for line in metrics}.items():
        if step in examples and line["examples"] != examples[step]:
            yield f"metrics at step {step}: {line['examples']} examples, the steps have {examples[step]}"
