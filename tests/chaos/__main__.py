"""Break runs on purpose, and audit each: python -m tests.chaos [--schedules N] [--ray N] [--first SEED] [--keep DIR]

Prints a table of faults on standard output and the failures on standard error; exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.schedules import Outcome, quiet, run_schedule, table
from tests.chaos.with_ray import FAULTS as OF_RAY
from tests.chaos.with_ray import run_with_ray
from tests.support.clock import LIBRARY


def _told(outcome: Outcome) -> Outcome:
    """A line for each schedule."""
    names = ", ".join(name for name, _ in outcome.faults)
    found = f"; {outcome.violations[:3]}" if outcome.violations else ""
    sys.stderr.write(f"schedule {outcome.seed}: {outcome.phase} in {outcome.lives} lives; {names}{found}\n")
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--ray", type=int, default=30, help="schedules with Ray, one after the other")
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--processes", type=int, default=8, help="schedules at once; most of their time is waiting")
    parser.add_argument("--keep", type=Path, help="folder for the runs that fail")
    options = parser.parse_args()
    if LIBRARY is None:
        parser.error("clocks jump by libfaketime: install Debian's package faketime")
    root = options.keep or Path(tempfile.mkdtemp(prefix="sparring-chaos-"))
    seeds = range(options.first, options.first + options.schedules)
    with ProcessPoolExecutor(options.processes, get_context("spawn"), initializer=quiet) as pool:
        outcomes = [_told(outcome) for outcome in pool.map(run_schedule, seeds, repeat(root))]
    sys.stdout.write("\n".join(table(outcomes, FAULTS)) + "\n\n")
    with_ray = [_told(run_with_ray(seed, root)) for seed in range(options.first, options.first + options.ray)]
    sys.stdout.write("\n".join(table(with_ray, OF_RAY)) + "\n\n")
    outcomes += with_ray
    failed = sum(not outcome.passed for outcome in outcomes)
    sys.stdout.write(f"{len(outcomes)} schedules, {failed} failed; runs that failed are in {root}\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
