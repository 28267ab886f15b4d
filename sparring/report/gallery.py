"""The gallery of a report: attacked images as pictures inside the page."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

from sparring.evaluation.pictures import Named, png, said, triple
from sparring.evaluation.showing import Shown
from sparring.report.parts import Picture

BYTES = 1_000_000  # of all pictures of a report, about
PICTURES = 12  # of a report of one run
LEAST = 3  # of each of several runs
BASE64 = 4 / 3


def count_for(runs: int) -> int:
    """How many images of each run are shown."""
    return max(LEAST, PICTURES // runs)


def pictures(shown: Sequence[Shown], radius: float | None, named: Named, runs: int) -> tuple[Picture, ...]:
    """Each image before and after, reduced where a report of so many runs would become too large.

    radius: see `triple`.
    """
    if not shown:
        return ()
    values = 3 * runs * count_for(runs) * shown[0].clean.shape[0] * BASE64
    most = int(math.sqrt(BYTES / values))
    return tuple(_picture(each, radius, named, most) for each in shown)


def _picture(each: Shown, radius: float | None, named: Named, most: int) -> Picture:
    made = triple(each, radius)
    return Picture(
        title=f"test image {each.place}" + ("" if each.label is None else f", class {named(each.label)}"),
        kind=each.kind,
        clean=_data(png(made.clean, most)),
        perturbation=_data(png(made.perturbation, most)),
        attacked=_data(png(made.attacked, most)),
        before=said(each.before, named),
        after=said(each.after, named),
        magnified=f"× {made.magnified:.3g}",
    )


def _data(file: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"
