"""Progress of a run: a live view on a terminal, else a line every few seconds."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sparring.observe.readings import Workers, number, waits
from sparring.observe.report import percent
from sparring.observe.state import RunState, staleness_summary

LINE_INTERVAL_S = 5.0
VIEW_INTERVAL_S = 0.25
MAX_ROWS = 8
MAX_BARS = 7
BLOCKS = "▁▂▃▄▅▆▇█"


class Progress:
    """Shows the latest state of a run while the context is open, and the last state when it closes.

    `update` may be called at every step; states that follow too fast are not shown. Output goes to `console`, by
    default on stderr. `clock` returns seconds.
    """

    def __init__(self, title: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._clock = title, clock
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._latest: tuple[RunState, Workers] | None = None
        self._shown_at = -math.inf
        self._last_line = ""

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._latest is not None:
            self._show(*self._latest)
        if self._live is not None:
            self._live.stop()

    def update(self, state: RunState, workers: Mapping[str, dict[str, Any]]) -> None:
        """Show the latest state and the workers' heartbeats (by worker id)."""
        if state.data and self._latest is None:
            self._console.print(Text(f"{self._title}: {state.data}"), soft_wrap=True)
        self._latest = (state, workers)
        interval = LINE_INTERVAL_S if self._live is None else VIEW_INTERVAL_S
        if self._clock() - self._shown_at >= interval:
            self._show(state, workers)

    def _show(self, state: RunState, workers: Workers) -> None:
        self._shown_at = self._clock()
        if self._live is not None:
            self._live.update(render(state, workers, self._title), refresh=True)
            return
        line = f"{self._title}: {step_line(state)}"
        if line != self._last_line:
            self._console.print(Text(line), soft_wrap=True)
        self._last_line = line


def step_line(state: RunState) -> str:
    """The state of a run in one line, without the values that are not known yet."""
    mean, highest = staleness_summary(state.staleness)
    parts = [
        state.phase,
        f"step {state.step}/{state.total_steps}",
        f"epoch {_epoch(state)}",
        _named("loss", state.loss, ".4g"),
        _named("ε", state.epsilon, ".4g"),
        _named("rate", state.learning_rate, ".3g"),
        _heldout(state),
        _rolling(state),
        _training(state),
        f"{state.examples_per_second:.0f} examples/s",
        f"staleness {mean:.2f} mean, {highest} max, bound {state.max_staleness}"
        if sum(state.staleness.values())
        else "",
        f"dropped {_dropped(state)}" if sum(state.dropped.values()) else "",
        f"{state.missing} examples missing" if state.missing else "",
        _time_left(state) if state.phase == "training" else "",
        " ".join(state.message.split()),
    ]
    return " | ".join(part for part in parts if part)


def render(state: RunState, workers: Workers, title: str = "") -> RenderableType:
    """The live view. The age of a heartbeat is relative to the time of the state."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column()
    rows.add_row("step", _bar(state))
    rows.add_row("epoch", Text(_training_now(state)))
    rows.add_row(
        "accuracy",
        Text("\n".join(filter(None, (_heldout(state), _rolling(state), _training(state)))) or "not measured yet"),
    )
    rows.add_row("speed", Text(_speed(state)))
    if sum(state.staleness.values()):
        rows.add_row("staleness", _staleness(state))
    if state.outstanding or state.worker_shards or state.dropped or state.set_aside:
        rows.add_row("queue", Text(_queue(state)))
    parts: list[RenderableType] = [rows]
    if workers:
        parts += [Text(), _workers(state, workers)]
    if state.message:
        parts += [Text(), Text(state.message, style="yellow")]
    heading = " · ".join(filter(None, (title, state.engine, state.dataset, state.phase)))
    return Panel(Group(*parts), title=Text(heading), title_align="left")


def _bar(state: RunState) -> Table:
    row = Table.grid(padding=(0, 2))
    total = max(state.total_steps, 1)
    bar = ProgressBar(total=total, completed=min(state.step, total), width=30)
    row.add_row(bar, Text(f"{state.step}/{state.total_steps}"), Text(_time_left(state)))
    return row


def _time_left(state: RunState) -> str:
    remaining = state.total_steps - state.step
    if state.step == 0 or remaining < 0:
        return ""
    return f"{duration(state.seconds)} elapsed, {duration(state.seconds / state.step * remaining)} left"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _named(name: str, value: float | None, form: str) -> str:
    return "" if value is None else f"{name} {value:{form}}"


def _training_now(state: RunState) -> str:
    readings = (
        _epoch(state),
        _named("loss", state.loss, ".4g"),
        _named("ε", state.epsilon, ".4g"),
        _named("rate", state.learning_rate, ".3g"),
    )
    return " · ".join(filter(None, readings))


def _epoch(state: RunState) -> str:
    """The epoch counted from 1; the state counts from 0."""
    return f"{min(state.epoch + 1, state.epochs)}/{state.epochs}"


def _heldout(state: RunState) -> str:
    if state.clean_accuracy is None and state.robust_accuracy is None:
        return ""
    clean, robust = percent(state.clean_accuracy), percent(state.robust_accuracy)
    if state.heldout_interval is not None:
        low, high = (100 * end for end in state.heldout_interval)
        robust += f" ({low:.1f} to {high:.1f}; {state.heldout_attack})"
    return f"clean {clean}, robust {robust} on {state.heldout_samples} held out"


def _rolling(state: RunState) -> str:
    """The last judged version of a rolling evaluation, and how far the one is that is judged now."""
    parts = []
    if state.rolling_accuracy is not None and state.rolling_interval is not None:
        low, high = (100 * end for end in state.rolling_interval)
        parts.append(
            f"AutoAttack {percent(state.rolling_accuracy)} ({low:.1f} to {high:.1f}) of {state.rolling_samples} held "
            f"out at step {state.rolling_version}, best {percent(state.rolling_best)} at {state.rolling_best_version}"
        )
    if state.rolling_judged and state.rolling_judged_version != state.rolling_version:
        parts.append(
            f"step {state.rolling_judged_version}: {state.rolling_judged_robust} of {state.rolling_judged} so far"
        )
    return "; ".join(parts)


def _training(state: RunState) -> str:
    known = state.train_robust_accuracy is not None
    return f"robust {percent(state.train_robust_accuracy)} on training batches" if known else ""


def _speed(state: RunState) -> str:
    waited = sum(state.wait_seconds.values())
    waiting = f" · trainer waited {100 * waited / state.seconds:.0f} %" if waited and state.seconds else ""
    return f"{state.examples_per_second:.0f} examples/s{waiting}"


def _staleness(state: RunState) -> Text:
    """A bar for each staleness up to the bound, or for ranges of it if the bound is large; the longest bar is full."""
    mean, highest = staleness_summary(state.staleness)
    shares = _shares(state.staleness, max(highest, state.max_staleness))
    tallest = max(shares.values())
    text = Text()
    for name, share in shares.items():
        text.append(f"{name} ", style="dim")
        text.append(BLOCKS[math.ceil(share / tallest * len(BLOCKS)) - 1] if share else "–", style="cyan")
        text.append(f" {100 * share:.0f} %   " if share else "   ")
    return text.append(f"\nmean {mean:.2f}, max {highest}, bound {state.max_staleness}")


def _shares(histogram: Counter[int], highest: int) -> dict[str, float]:
    """Shares of shards by staleness 0 … highest, in at most `MAX_BARS` ranges of equal width."""
    width = math.ceil((highest + 1) / MAX_BARS)
    total = sum(histogram.values())
    shares = {}
    for first in range(0, highest + 1, width):
        last = min(first + width - 1, highest)
        name = str(first) if first == last else f"{first}–{last}"
        shares[name] = sum(histogram[staleness] for staleness in range(first, last + 1)) / total
    return shares


def _queue(state: RunState) -> str:
    dropped = f"dropped {_dropped(state)}" if sum(state.dropped.values()) else "none dropped"
    aside = f" · {state.missing} missing" if state.set_aside else ""
    size = f" · {state.queue_bytes / 2**20:.1f} MiB" if state.queue_bytes else ""
    return f"{state.outstanding} outstanding, {state.ready} ready{size} · {dropped}{aside}"


def _dropped(state: RunState) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in state.dropped.most_common() if count)
    return f"{sum(state.dropped.values())} ({reasons})"


def _workers(state: RunState, workers: Workers) -> Group:
    rows = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    rows.add_column("worker")
    for name in ("shards", "busy", "version", "heartbeat"):
        rows.add_column(name, justify="right")
    for worker in sorted(workers, key=_natural)[:MAX_ROWS]:
        rows.add_row(*map(Text, (worker, *_worker(state, workers[worker]))))
    more = len(workers) - MAX_ROWS
    return Group(rows, Text(f"and {more} more")) if more > 0 else Group(rows)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts w2 before w10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _worker(state: RunState, beat: Mapping[str, Any]) -> tuple[str, str, str, str]:
    busy, reported_at = number(beat.get("busy_seconds")) or 0.0, number(beat.get("time"))
    total = busy + sum(waits(beat).values())
    age = "–" if reported_at is None or not state.updated else f"{max(0.0, state.updated - reported_at):.0f} s ago"
    share = f"{100 * busy / total:.0f} %" if total else "–"
    return str(beat.get("shards", "–")), share, str(beat.get("version", "–")), age
