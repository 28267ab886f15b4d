"""The least margin of a ReLU network over a box of images, as a mixed-integer program that HiGHS solves.

HiGHS by its own package and not by scipy's `milp`, which can neither stop at a bound nor be interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from sparring.errors import SparringError
from sparring.evaluation.relaxation import Bounds
from sparring.evaluation.relu_network import Array, ReluNetwork

PROOF_MARGIN = 1e-4  # in logits; a hundred times what the solver's tolerances move a margin by
TOLERANCE = 1e-7  # of HiGHS: on constraints and whole numbers


class Minimum(NamedTuple):
    """What is known of the least margin.

    above: it is over `PROOF_MARGIN`. image: float64 [n_0] at which it is at most 0, by the solver's arithmetic; None:
    none was found.
    """

    above: bool
    image: Array | None


@dataclass
class _Model:
    """Columns and rows of a program while it is put together; entries as (row, column, value)."""

    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)
    whole: list[Any] = field(default_factory=list)
    row_lower: list[Array] = field(default_factory=list)
    row_upper: list[Array] = field(default_factory=list)
    entries: list[tuple[Any, Any, Array]] = field(default_factory=list)
    columns: int = 0
    rows: int = 0

    def add_columns(self, lower: Array, upper: Array, *, whole: bool = False) -> Any:
        """Their numbers, int64 [n]."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.whole.append(np.full(len(lower), whole))
        first, self.columns = self.columns, self.columns + len(lower)
        return np.arange(first, self.columns)

    def add_rows(self, lower: Array, upper: Array) -> Any:
        """Their numbers, int64 [n]."""
        self.row_lower.append(lower)
        self.row_upper.append(upper)
        first, self.rows = self.rows, self.rows + len(lower)
        return np.arange(first, self.rows)

    def put(self, rows: Any, columns: Any, values: Array | float) -> None:
        """Entries of the matrix, one for each row."""
        self.entries.append((rows, columns, np.broadcast_to(np.asarray(values, dtype=np.float64), rows.shape)))


@dataclass(frozen=True)
class Program:
    """min c·v over the activations v of a network; lower ≤ v ≤ upper, row_lower ≤ matrix·v ≤ row_upper, `whole` in Z.

    last: columns of the last hidden layer's activations, -1 where one is always 0. pixels: the first columns are the
    image.
    """

    matrix: Any
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    whole: Any
    last: Any
    pixels: int


def require_solver() -> None:
    """Refuse where HiGHS is not installed.

    Raises:
        SparringError: so it is.
    """
    try:
        import highspy  # noqa: F401
    except ImportError as error:
        raise SparringError("verify: highspy is not installed. pip install 'sparring[verify]'.") from error


def program_of(network: ReluNetwork, box: Bounds, bounds: Sequence[Bounds]) -> Program:
    """All images of the box with what the network makes of them, exactly (Tjeng et al. 2019, section 4).

    A ReLU that is always off is left out, one that is always on is linear. An unstable one with l ≤ z ≤ u has z = a − s
    where 0 ≤ a ≤ u·d, 0 ≤ s ≤ −l·(1 − d) and d is 0 or 1 (Fischetti & Jo 2018).

    Args:
        bounds: of the preactivations of all layers.
    """
    model = _Model()
    before = model.add_columns(box.lower, box.upper)
    for weight, bias, each in zip(network.weights[:-1], network.biases[:-1], bounds, strict=False):
        before = _add_layer(model, weight, bias, each, before)
    return _assembled(model, before, len(box.lower))


def _add_layer(model: _Model, weight: Any, bias: Array, bounds: Bounds, before: Any) -> Any:
    """Add the activations of a layer; returns their columns, -1 where one is always 0."""
    on = np.flatnonzero(bounds.upper > 0)
    lower, upper, columns = bounds.lower[on], bounds.upper[on], np.full(len(bias), -1)
    activations = columns[on] = model.add_columns(np.maximum(lower, 0), upper)
    rows = model.add_rows(-bias[on], -bias[on])
    inputs = weight[on].tocoo()
    used = before[inputs.col] >= 0
    model.put(rows[inputs.row[used]], before[inputs.col[used]], inputs.data[used])
    model.put(rows, activations, -1.0)
    which = np.flatnonzero(lower < 0)
    lower, upper, zeros = lower[which], upper[which], np.zeros(len(which))
    slack = model.add_columns(zeros, -lower)
    switch = model.add_columns(zeros, np.ones(len(which)), whole=True)
    model.put(rows[which], slack, 1.0)
    over = model.add_rows(np.full(len(which), -np.inf), zeros)
    model.put(over, activations[which], 1.0)
    model.put(over, switch, -upper)
    under = model.add_rows(np.full(len(which), -np.inf), -lower)
    model.put(under, slack, 1.0)
    model.put(under, switch, -lower)
    return columns


def _assembled(model: _Model, last: Any, pixels: int) -> Program:
    rows, columns, values = (
        (np.concatenate(part) for part in zip(*model.entries, strict=True))
        if model.entries
        else (
            np.zeros(0, dtype=np.int64),
            np.zeros(0, dtype=np.int64),
            np.zeros(0),
        )
    )
    matrix = sparse.csr_array((values, (rows, columns)), shape=(model.rows, model.columns))

    def joined(parts: list[Array]) -> Array:
        return np.concatenate([np.zeros(0), *parts])

    return Program(
        matrix,
        joined(model.row_lower),
        joined(model.row_upper),
        joined(model.lower),
        joined(model.upper),
        np.concatenate(model.whole),
        last,
        pixels,
    )


def least_margin(program: Program, row: Array, offset: float, deadline: float) -> Minimum:
    """Is `row` · (last activations) + `offset` above 0 everywhere? The search ends as soon as that is known.

    Args:
        row: float64 [n], such as the difference of two rows of the last weights.
        deadline: when to give up, in this process' processor seconds (`time.process_time`).
    """
    import highspy

    if time.process_time() > deadline:
        return Minimum(False, None)
    solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    for name, value in _options().items():
        solver.setOptionValue(name, value)
    solver.passModel(_highs_model(highspy, program, row, offset))

    def late(event: Any) -> None:
        if time.process_time() > deadline:
            event.interrupt()

    for stage in (solver.cbMipInterrupt, solver.cbSimplexInterrupt, solver.cbIpmInterrupt):
        stage.subscribe(late)
    solver.run()
    status, information = solver.getModelStatus(), solver.getInfo()
    if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kObjectiveBound):
        return Minimum(True, None)  # nothing is at or below the cut-off
    if information.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return Minimum(False, None)
    found = np.asarray(solver.getSolution().col_value[: program.pixels])
    if status == highspy.HighsModelStatus.kOptimal and information.objective_function_value > PROOF_MARGIN:
        return Minimum(True, None)
    return Minimum(False, found)


def _options() -> dict[str, Any]:
    """One thread, and no search beyond what is asked: is there a point at or below the cut-off, and is one at 0?"""
    return {
        "output_flag": False,
        "threads": 1,
        "objective_bound": PROOF_MARGIN,
        "objective_target": 0.0,
        "mip_feasibility_tolerance": TOLERANCE,
        "primal_feasibility_tolerance": TOLERANCE,
        "random_seed": 0,
    }


def _highs_model(highspy: Any, program: Program, row: Array, offset: float) -> Any:
    cost = np.zeros(len(program.lower))
    used = program.last >= 0
    cost[program.last[used]] = row[used]
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(program.lower), len(program.row_lower)
    model.col_cost_, model.offset_ = cost, offset
    model.col_lower_, model.col_upper_ = program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = program.matrix.indptr
    model.a_matrix_.index_ = program.matrix.indices
    model.a_matrix_.value_ = program.matrix.data
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    model.integrality_ = [kinds[int(each)] for each in program.whole]
    return model
