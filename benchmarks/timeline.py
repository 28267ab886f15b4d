"""Where the time of a run goes: a timeline that Perfetto opens, and what is neither attack nor step.

    python -m benchmarks.timeline --out FOLDER [--workers 1] [--shards-per-step 16] [--publish-every 1] [--seconds 20]

The run is that of benchmarks/scaling.py, series 80: a shard of 128 x 3 x 32 x 32 is attacked for 80 ms and trained on
for 10 ms, both timed waits (what of them is arithmetic on this CPU is taken off the waits), and all else is real. Its
processes load this module, which puts a clock around the functions in SPANS; FOLDER/trace.json is the timeline in
Chrome's format. The table has the time of each process's main thread, of which a span has what no span inside it
has. `own` is what the run costs itself: all but attack, step and waits. What is done beside the main thread (receiving
and decoding, publishing, heartbeats) is in the timeline, and in the lower table.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from benchmarks import scaling, waiting
from benchmarks.measure import header, machine, row, write_images
from sparring.commands.train import train
from sparring.config import from_tree

TRACE = "SPARRING_TRACE"  # the folder that each process writes its spans into
SPANS = {
    "sparring.workers.attackers:OneByOne.begin": "attack",  # images and starts
    "sparring.workers.attackers:OneByOne.advance": "attack",
    "sparring.queue.transport:Transport.heartbeat": "heartbeat",
    "sparring.engines.ray.weights:Weights.begin": "wait: weights",
    "sparring.engines.ray.weights:Weights._load": "load weights",
    "sparring.engines.asynchronous.loop:Loop._attack_a_little": "attack",
    "sparring.queue.transport:Transport.lease": "wait: ticket",
    "sparring.queue.transport:encode_shard": "encode",
    "sparring.engines.ray.worker:Worker.settle_push": "wait: push",
    "sparring.queue.transport:Transport.commit": "push",
    "sparring.queue.transport:Transport.receive": "wait: pop",
    "sparring.queue.transport:decode_shard": "decode",
    "sparring.engines.asynchronous.loop:Loop._drain": "wait: shards",
    "sparring.trainer.session:Session.learn": "record",
    "sparring.trainer.session:Session.after_step": "report",
    "sparring.trainer.learner:Learner.learn": "step",
    "sparring.engines.asynchronous.loop:Loop.issue": "issue",
    "sparring.engines.asynchronous.loop:Loop._housekeep": "housekeeping",
    "sparring.engines.asynchronous.broadcaster:Broadcaster.start": "wait: broadcast",
    "sparring.engines.asynchronous.broadcaster:Broadcaster.until_copied": "wait: copy",
    "sparring.engines.asynchronous.broadcaster:Broadcaster._send": "broadcast",
}
Span = dict[str, Any]


class Clock:
    """Writes a line for every call of what it is put around."""

    def __init__(self, folder: Path) -> None:
        self._file: TextIO = (folder / f"{os.getpid()}.jsonl").open("a", buffering=1)

    def around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.time_ns()
            try:
                return function(*arguments, **named)
            finally:
                ended, thread = time.time_ns(), threading.current_thread()
                self._file.write(
                    json.dumps(
                        {
                            "name": "arrive" if named.get("block") is False else name,
                            "ph": "X",
                            "ts": began / 1000,
                            "dur": (ended - began) / 1000,
                            "pid": os.getpid(),
                            "tid": thread.native_id,
                            "args": {"thread": thread.name},
                        }
                    )
                    + "\n"
                )

        return timed


def install(folder: Path) -> None:
    """Put the clock around SPANS in this process."""
    clock = Clock(folder)
    for place, name in SPANS.items():
        module, _, path = place.partition(":")
        *owners, attribute = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, attribute, clock.around(getattr(owner, attribute), name))


def __getattr__(name: str) -> Any:
    """Networks of benchmarks/waiting.py: a process that builds one by way of this module is timed."""
    factory = getattr(waiting, name)
    if TRACE in os.environ and not _installed:
        _installed.append(True)
        install(Path(os.environ[TRACE]))
    return factory


_installed: list[bool] = []


def own_times(spans: list[Span]) -> dict[str, float]:
    """Seconds by name of one thread's spans: of each, what no span within it has."""
    spent: dict[str, float] = defaultdict(float)
    open_spans: list[Span] = []
    for span in sorted(spans, key=lambda each: (each["ts"], -each["dur"])):
        while open_spans and open_spans[-1]["ts"] + open_spans[-1]["dur"] <= span["ts"]:
            open_spans.pop()
        if open_spans:
            spent[open_spans[-1]["name"]] -= span["dur"] / 1e6
        spent[span["name"]] += span["dur"] / 1e6
        open_spans.append(span)
    return dict(spent)


def threads_of(spans: list[Span]) -> dict[tuple[int, int], list[Span]]:
    found: dict[tuple[int, int], list[Span]] = defaultdict(list)
    for span in spans:
        found[span["pid"], span["tid"]].append(span)
    return found


def table(spans: list[Span], began: float, ended: float) -> str:
    """The main threads' time in shares of the window, then that of the threads beside them."""
    inside = [each for each in spans if began <= each["ts"] and each["ts"] + each["dur"] <= ended]
    seconds = (ended - began) / 1e6
    main, beside = [], []
    for mine in threads_of(inside).values():
        spent = own_times(mine)
        if mine[0]["pid"] != mine[0]["tid"]:  # Linux's main thread has the process's id
            beside.append(row(mine[0]["args"]["thread"], _shares(spent, seconds)))
            continue
        waits = sum(value for name, value in spent.items() if name.startswith("wait"))
        work = spent.get("attack", 0.0) + spent.get("step", 0.0)
        shares = [f"{100 * part / seconds:.1f} %" for part in (work, waits, seconds - work - waits)]
        rest = {name: value for name, value in spent.items() if name not in ("attack", "step")}
        main.append(row(_who(mine), *shares, _shares({**rest, "between": seconds - sum(spent.values())}, seconds)))
    return "\n".join(
        [
            header("process", "attack and step", "waits", "own", "of that and of waits"),
            *sorted(main),
            "",
            header("thread beside", "share of the time"),
            *sorted(beside),
        ]
    )


def _shares(spent: dict[str, float], seconds: float) -> str:
    largest = sorted(spent.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * value / seconds:.2f} %" for name, value in largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/timeline"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shards-per-step", type=int, default=16)
    parser.add_argument("--publish-every", type=int, default=1, help="steps; the depth is what the bound allows")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", scaling.EXAMPLES)
        waits = scaling.waits_us("80", scaling.arithmetic_of("80", folder), 1.0)
        traces = Path(folder) / "traces"
        traces.mkdir()
        os.environ[TRACE] = str(traces)
        measured = scaling.Row("80", options.workers, waits, options.seconds, folder)
        tree = measured.config().model_dump(mode="json", exclude_none=True)
        tree["model"]["name"] = f"benchmarks.timeline:wait_{waits[0]}_{waits[1]}"
        tree["train"]["shards_per_step"] = options.shards_per_step
        tree["staleness"].update(publish_every=options.publish_every, depth=scaling.BOUND - options.publish_every)
        window = scaling.Window(measured)
        train(from_tree(tree), window.show, window.on_run)
        spans = [json.loads(line) for path in traces.glob("*.jsonl") for line in path.read_text().splitlines()]
    names = {pid: _who([span for span in spans if span["pid"] == pid]) for pid in {span["pid"] for span in spans}}
    reported = [{"name": "process_name", "ph": "M", "pid": pid, "args": {"name": who}} for pid, who in names.items()]
    (options.out / "trace.json").write_text(json.dumps({"traceEvents": [*reported, *spans]}))
    print(table(spans, 1e6 * window.began, 1e6 * window.ended))
    sys.stdout.write(f"{options.out / 'trace.json'}: {len(spans)} spans; open it in https://ui.perfetto.dev\n")


def _who(spans: list[Span]) -> str:
    return "trainer" if any(span["name"] == "step" for span in spans) else "worker"


if __name__ == "__main__":
    main()
