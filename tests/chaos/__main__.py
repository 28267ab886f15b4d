"""Break runs on purpose, and audit each: python -m tests.chaos [--schedules N] [--first SEED] [--keep DIR]

Prints a table of faults on standard output and the failures on standard error; exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import torch

from tests.chaos.schedules import run_schedule, table


def _quiet() -> None:
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--processes", type=int, default=8, help="schedules at once; most of their time is waiting")
    parser.add_argument("--keep", type=Path, help="folder for the runs that fail")
    options = parser.parse_args()
    root = options.keep or Path(tempfile.mkdtemp(prefix="sparring-chaos-"))
    seeds = range(options.first, options.first + options.schedules)
    outcomes = []
    with ProcessPoolExecutor(options.processes, get_context("spawn"), initializer=_quiet) as pool:
        for outcome in pool.map(run_schedule, seeds, repeat(root)):
            outcomes.append(outcome)
            if not outcome.passed:
                names = [name for name, _ in outcome.faults]
                sys.stderr.write(f"schedule {outcome.seed}: {outcome.phase}; {names}; {outcome.violations[:3]}\n")
            if len(outcomes) % 50 == 0:
                sys.stderr.write(f"{len(outcomes)} of {options.schedules} schedules\n")
    failed = sum(not outcome.passed for outcome in outcomes)
    sys.stdout.write("\n".join(table(outcomes)) + "\n")
    sys.stdout.write(f"{len(outcomes)} schedules, {failed} failed; runs that failed are in {root}\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
