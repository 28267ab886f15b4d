"""Everything that stands as 'not measured' for a GPU, in ten minutes on one: `make bench-gpu`.

    python -m benchmarks.gpu [--data DIR] [--minutes 10] [--small] [--out FILE] [--draw]

Each part is a benchmark of its own in a process of its own. FILE, benchmarks/records/gpu.json by default, has the
machine and of each part the command, its seconds and the lines that it printed; parts that found no more time say so.
With --draw docs/benchmarks.md is drawn anew from it. --small exercises every part on a processor with small sizes: its
figures say nothing, and are not drawn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine
from sparring.runs import write_atomically

RECORD = Path(__file__).parent / "records" / "gpu.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- gpu: drawn by benchmarks.gpu -->", "<!-- end of gpu -->"
LEAST_S = 5.0  # a part is not begun with less time


@dataclass(frozen=True)
class Part:
    """One question: the module or command, its arguments on a GPU and in small. data: it needs CIFAR-10."""

    question: str
    module: str
    on_gpu: tuple[str, ...]
    small: tuple[str, ...]
    data: bool = False


TRAIN = ("train", "recipes/cifar10-fast.toml", "--json", "--name", "bench-gpu")
SHARED = ("--workers.num_gpus", "0.5", "--trainer.num_gpus", "0.5")
TINY = ("--engine", "sync", "--data.name", "digits", "--train.max_steps", "5", "--evaluation.samples", "20")
PARTS = (
    Part(
        "What do channels_last, bf16 and torch.compile do to an attack step?",
        "benchmarks.kernels",
        ("--networks", "preact-resnet-18:128", "wrn-34-10:128", "--repetitions", "10"),
        ("--networks", "mnist-16-32-100:8", "--variants", "ours", "ours, bf16", "--repetitions", "2"),
    ),
    Part(
        "Do two streams or CUDA graphs pay?",
        "benchmarks.streams",
        ("--networks", "mnist-16-32-100:128", "preact-resnet-18:128"),
        ("--networks", "mnist-16-32-100:8", "--repetitions", "2"),
    ),
    Part(
        "Do slots pay against a batch that shrinks?",
        "benchmarks.allocator",
        ("--device", "cuda", "--networks", "preact-resnet-18", "--batches", "128", "--repetitions", "5"),
        ("--networks", "mnist-16-32-100", "--objectives", "pgd-at", "--batches", "32", "--repetitions", "1"),
    ),
    Part(
        "How many workers on one GPU pay?",
        "benchmarks.sharing",
        ("--gpus", "1", "--workers", "1", "2", "4"),
        ("--network", "mnist-16-32-100", "--batch", "16", "--steps", "20", "--workers", "1"),
    ),
    Part(
        "How long does cifar10-fast take, and how robust is it? (paper: 45 % in 6 minutes on a 2080 Ti)",
        "sparring",
        (*TRAIN, *SHARED),
        ("train", "--json", *TINY),
        data=True,
    ),
)


def command_of(part: Part, small: bool, data: Path | None) -> list[str]:
    """The whole command of a part."""
    place: list[str] = []
    if part.data and not small and data is not None:
        arrays = (data / "cifar10-train.npz").exists()
        place = ["--data.name", f"npz:{data / 'cifar10'}"] if arrays else ["--data.root", str(data)]
    return ["-m", part.module, *(part.small if small else part.on_gpu), *place]


def measured(part: Part, small: bool, data: Path | None, left_s: float) -> dict[str, Any]:
    """What a part prints, within the time that is left."""
    found: dict[str, Any] = {"question": part.question, "command": ["python", *command_of(part, small, data)]}
    if left_s < LEAST_S:
        return found | {"state": "not begun: no time was left", "seconds": 0.0, "lines": []}
    if part.data and not small and data is None:
        return found | {"state": "not begun: --data names no folder", "seconds": 0.0, "lines": []}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *command_of(part, small, data)], stdout=subprocess.PIPE, text=True, timeout=left_s
        )
        state, printed = "done" if done.returncode == 0 else f"failed with exit code {done.returncode}", done.stdout
    except subprocess.TimeoutExpired as late:
        state, printed = f"stopped after {left_s:.0f} s", (late.stdout or b"").decode()
    return found | {"state": state, "seconds": round(time.monotonic() - began, 1), "lines": printed.splitlines()}


def drawn(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [f"Measured on {record['machine']}.", ""]
    for part in record["parts"]:
        lines += [f"**{part['question']}** {part['state']}, {part['seconds']:.0f} s", ""]
        table = [line for line in part["lines"] if line.startswith("|")]
        lines += [*(table or ["```", *part["lines"], "```"]), ""]
    return "\n".join(lines)


def draw(record: dict[str, Any], page: Path) -> None:
    """Put the record between the page's marks."""
    head, _, rest = page.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    write_atomically(page, f"{head}{BEGIN}\n{drawn(record)}\n{END}{tail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10, as torchvision's files or cifar10-train.npz")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        parser.error("no GPU is here. --small exercises the parts on a processor")
    until = time.monotonic() + 60 * options.minutes
    record: dict[str, Any] = {"machine": machine(), "small": options.small, "parts": []}
    for part in PARTS:
        print(part.question, file=sys.stderr, flush=True)
        record["parts"].append(measured(part, options.small, options.data, until - time.monotonic()))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, json.dumps(record, indent=2) + "\n")
        print(f"  {record['parts'][-1]['state']}", file=sys.stderr, flush=True)
    print(drawn(record))
    if options.draw and not options.small:
        draw(record, PAGE)
    if any(part["state"].startswith("failed") for part in record["parts"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
