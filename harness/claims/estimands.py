"""The numbers that claims are about, each computed from what a suite recorded."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from ..analysis.aggregate import medians
from ..analysis.formats import number
from ..analysis.sensitivity import spread
from ..analysis.statistics import Interval, clustered_geometric_mean, clustered_median, median_interval
from ..analysis.stepcost.summary import summaries
from ..analysis.theory import summary as theory
from ..frozen import Frozen
from ..studies import StepCostStudy, Study, TheoryStudy, TrainingStudy
from ..sweep import Contender
from ..trial import Outcome, TrialResult

__all__ = ["Estimand", "Estimate"]

MOST_NOISE = 0.15  # relative; where equal work takes times that spread more, seconds decide nothing


class Estimate(NamedTuple):
    """A number with its 95% interval, and what it rests on.

    Attributes:
        value: NaN where nothing has been measured.
        low: Lower end.
        high: Upper end.
        samples: Independent ones.
        widths: The sizes that a fit goes over.
        cells: The medians of the cells that it is a mean of.
        obstacle: Why it cannot be trusted, such as a noisy machine; "" if it can.
        absent: Why there is nothing; "" if there is something.
    """

    value: float
    low: float
    high: float
    samples: int
    widths: tuple[int, ...] = ()
    cells: tuple[float, ...] = ()
    obstacle: str = ""
    absent: str = ""

    @property
    def range(self) -> str:
        """Of the cells, in words; "" where there are not several."""
        if len(self.cells) < 2:
            return ""
        low, high = (number(end, infinite="∞") for end in (min(self.cells), max(self.cells)))
        return f"{low} to {high} in its {len(self.cells)} cells"


def _nothing(reason: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, 0, absent=reason)


def _estimate(
    interval: Interval, widths: Sequence[int] = (), cells: Sequence[float] = (), obstacle: str = ""
) -> Estimate:
    if interval.size == 0 and not obstacle and not widths:
        return _nothing("nothing is recorded")
    return Estimate(*interval, tuple(widths), tuple(cells), obstacle)


class _Theory(Frozen):
    """Of a theory suite; one activation."""

    activation: str

    def _found(self, study: Study) -> TheoryStudy:
        assert isinstance(study, TheoryStudy), "the suite measures no theory"
        return study


class GapExponent(_Theory):
    """Exponent in the width of the gap between one step and kernel regression, on held-out inputs."""

    name: Literal["gap_exponent"]

    def of(self, study: Study) -> Estimate:
        costs = self._found(study).found
        return _estimate(theory.gap_exponent(costs, self.activation), theory.widths(costs, self.activation))


class ConvergenceOrder(_Theory):
    """Slope of log‖r⁺‖ on log‖r‖ along full-batch descents."""

    name: Literal["order"]

    def of(self, study: Study) -> Estimate:
        costs = self._found(study).found
        return _estimate(theory.order(costs, self.activation), theory.widths(costs, self.activation))


class BoundRatio(_Theory):
    """The largest ‖r⁺‖ over its bound C/√M ‖r‖², over all steps; a maximum has no interval."""

    name: Literal["bound_ratio"]

    def of(self, study: Study) -> Estimate:
        costs = self._found(study).found
        ratios = theory.bound_ratios(costs, self.activation)
        if not ratios:
            return _nothing("no step with a bound is recorded")
        seeds = {result.trial.seed for result, _ in theory.records(costs, self.activation)}
        return Estimate(max(ratios), max(ratios), max(ratios), len(seeds), tuple(theory.widths(costs, self.activation)))


class WidthExponent(_Theory):
    """Exponent in the width of ‖r₁‖/‖r₀‖²."""

    name: Literal["width_exponent"]

    def of(self, study: Study) -> Estimate:
        costs = self._found(study).found
        return _estimate(theory.width_exponent(costs, self.activation), theory.widths(costs, self.activation))


class EpochRate(_Theory):
    """The factor of ‖r‖ an epoch over fixed mini-batches, in the second half; or its logarithm over the predicted."""

    name: Literal["epoch_rate"]
    over_prediction: bool = False
    from_width: int = 1

    def of(self, study: Study) -> Estimate:
        by_seed: dict[int, list[float]] = {}
        widths = set()
        for result, record in theory.records(self._found(study).found, self.activation):
            width = result.trial.problem.width
            rate = theory.tail_rate(record.epoch_residuals, record)
            if width < self.from_width or math.isnan(rate):
                continue
            if self.over_prediction:
                rate = math.log(rate) / math.log(theory.tail_rate(record.predicted_residuals, record))
            widths.add(width)
            by_seed.setdefault(result.trial.seed, []).append(rate)
        return _estimate(clustered_median(list(by_seed.values())), sorted(widths))


class StepRatio(Frozen):
    """A step of GGN over a rival's, in time: the dearest cell of those that match."""

    name: Literal["step_ratio"]
    rival: str
    device: str = "cpu"
    width: int | None = None

    def of(self, study: Study) -> Estimate:
        assert isinstance(study, StepCostStudy), "the suite measures no step costs"
        costs = [
            costs
            for costs in study.found
            if costs.cell.device == self.device and self.width in (None, costs.cell.problem.width)
        ]
        results = [result for entry in costs for result in entry.results]
        if not results or all(result.outcome is Outcome.SKIPPED for result in results):
            return _nothing(results[0].reason if results else f"this version of the suite has no cell on {self.device}")
        chosen = summaries(study.suite, costs)
        # "Every cell" is asked for: the largest median, the largest lower and the largest upper end.
        ratios = [ratio.value for summary in chosen for ratio in summary.ratios if ratio.rival.name == self.rival]
        noisy = sum(summary.noisy for summary in chosen)
        failed = [result for result in results if result.outcome is not Outcome.COMPLETED]
        obstacle = f"noisy machine: equal code took different times in {noisy} of {len(chosen)} cells" if noisy else ""
        if failed:
            obstacle = f"{failed[0].outcome}: {(failed[0].reason.splitlines() or [''])[-1]}"
        elif len(results) < len(chosen) or not all(ratio.size for ratio in ratios):
            return _nothing("not all cells are recorded")
        return Estimate(
            max(ratio.median for ratio in ratios),
            max(ratio.low for ratio in ratios),
            max(ratio.high for ratio in ratios),
            min(ratio.size for ratio in ratios),
            tuple(sorted({summary.costs.cell.problem.width for summary in chosen})),
            obstacle=obstacle,
        )


Pair = tuple[TrialResult, TrialResult]


class _Rivalry(Frozen):
    """GGN over a rival on one problem, paired by cell and seed: the geometric mean over the cells."""

    problem: str
    rival: str

    def _pairs(self, study: Study) -> list[dict[int, Pair]]:
        """For each cell, seed → the pair."""
        assert isinstance(study, TrainingStudy), "the suite trains nothing"
        rivals = {contender.cell: contender.evaluations for contender in _contenders(study, self.problem, self.rival)}
        cells = []
        for ours in _contenders(study, self.problem, "ggn"):
            theirs = {result.trial.seed: result for result in rivals.get(ours.cell, ())}
            both = {r.trial.seed: (r, theirs[r.trial.seed]) for r in ours.evaluations if r.trial.seed in theirs}
            cells.append(both)
        return cells

    def _mean(
        self, cells: list[dict[int, Pair]], ratio: Callable[[Pair], float | None], obstacle: str = ""
    ) -> Estimate:
        ratios = [{seed: r for seed, pair in cell.items() if (r := ratio(pair)) is not None} for cell in cells]
        middles = [float(medians(np.array(list(cell.values())))) for cell in ratios if cell]
        return _estimate(clustered_geometric_mean(ratios), cells=middles, obstacle=obstacle)


class TargetRatio(_Rivalry):
    """Epochs or seconds to the target, GGN's over the rival's.

    Infinite where GGN misses the target; where the rival does, its whole budget counts, so the ratio is an upper limit.
    """

    name: Literal["target_ratio"]
    axis: Literal["epoch", "seconds"]

    def of(self, study: Study) -> Estimate:
        assert isinstance(study, TrainingStudy)
        cells = self._pairs(study)
        timed = [pair for cell in cells for pair in cell.values()] if self.axis == "seconds" else []
        return self._mean(cells, partial(self._ratio, study), _clock_trouble(timed))

    def _ratio(self, study: TrainingStudy, pair: Pair) -> float | None:
        ours, theirs = pair
        target = study.suite.target_of(ours.trial.problem)
        a, b = (result.at_target(target, self.axis) for result in (ours, theirs))
        if a is None:
            return None if b is None else math.inf  # both missed: the pair says nothing
        if b is None:  # at least the whole budget, so the ratio is at most this; of what broke off no time is known
            b = getattr(theirs.curve, self.axis)[-1] if theirs.outcome is Outcome.COMPLETED else math.inf
        return a / b if b > 0 else 1.0


class ErrorRatio(_Rivalry):
    """Test error, GGN's over the rival's: at the end of the training, or the lowest along it."""

    name: Literal["test_error_ratio"]
    along: Literal["final", "best"]

    def of(self, study: Study) -> Estimate:
        return self._mean(self._pairs(study), self._ratio)

    def _ratio(self, pair: Pair) -> float | None:
        a, b = map(self._error, pair)
        if math.isinf(a) and math.isinf(b):
            return None
        return 0.0 if math.isinf(b) else a / b

    def _error(self, result: TrialResult) -> float:
        """Infinite for what did not end well."""
        if result.outcome is not Outcome.COMPLETED:
            return math.inf
        errors = result.curve.test_rmse
        return errors[-1] if self.along == "final" else min(errors)


class _Grid(Frozen):
    """Training losses after some epochs over a grid of the paper's (λ, α), on one problem."""

    problem: str
    epoch: int

    def _losses(self, study: Study) -> dict[int, dict[tuple[float, float], float]]:
        """Seed → (λ, α) → loss; infinite where the training broke off before."""
        assert isinstance(study, TrainingStudy), "the suite trains nothing"
        losses: dict[int, dict[tuple[float, float], float]] = {}
        for contender in _contenders(study, self.problem, "ggn"):
            for result in contender.evaluations:
                losses.setdefault(result.trial.seed, {})[paper_letters(contender)] = loss_at(result, self.epoch)
        complete = len(_contenders(study, self.problem, "ggn"))
        return {seed: grid for seed, grid in losses.items() if len(grid) == complete}


class DampingSpread(_Grid):
    """The worst over the best training loss along α, at one λ."""

    name: Literal["damping_spread"]
    regularization: float  # λ

    def of(self, study: Study) -> Estimate:
        spreads = []
        for grid in self._losses(study).values():
            row = [loss for (lam, _), loss in grid.items() if lam == self.regularization]
            spreads.append(spread(row))
        return _estimate(median_interval(spreads))


class BestRegularization(_Grid):
    """The λ of the lowest training loss, whatever the α."""

    name: Literal["best_regularization"]

    def of(self, study: Study) -> Estimate:
        best = [min(grid, key=lambda place: grid[place])[0] for grid in self._losses(study).values()]
        return _estimate(median_interval(best))


Estimand = Annotated[
    GapExponent | ConvergenceOrder | BoundRatio | WidthExponent | EpochRate | StepRatio | TargetRatio | ErrorRatio
    | DampingSpread | BestRegularization,
    Field(discriminator="name"),
]  # fmt: skip


def paper_letters(contender: Contender) -> tuple[float, float]:
    """The paper's (λ, α) of a GGN method: λ = 1/lr, α = damping/lr, rounded to six digits."""
    settings = contender.method.model_dump()
    lam = 1 / settings["lr"]
    return float(f"{lam:.6g}"), float(f"{settings['damping'] * lam:.6g}")


def loss_at(result: TrialResult, epoch: int) -> float:
    """The training loss after so many epochs; infinite where the training broke off before."""
    curve = result.curve
    return next((loss for at, loss in zip(curve.epoch, curve.train_loss, strict=True) if at == epoch), math.inf)


def _contenders(study: TrainingStudy, problem: str, method: str) -> list[Contender]:
    return [c for c in study.found if c.cell.problem.label == problem and c.method.name == method]


def _clock_trouble(pairs: Sequence[Pair]) -> str:
    """An A/A test of the clock: trials of one method in one cell do equal work, so an epoch must take equal times."""
    groups: dict[str, list[float]] = {}
    for result in {id(result): result for pair in pairs for result in pair}.values():
        curve = result.curve
        if curve.epoch and curve.epoch[-1] > 0:
            key = result.trial.model_copy(update={"seed": 0}).id
            groups.setdefault(key, []).append(curve.seconds[-1] / curve.epoch[-1])
    spreads = [_spread(times) for times in groups.values() if len(times) > 1]
    worst = max(spreads, default=0.0)
    if worst <= MOST_NOISE:
        return ""
    return f"noisy machine: equal work took times that spread by {worst:.0%} (interquartile range over median)"


def _spread(times: Sequence[float]) -> float:
    low, middle, high = np.percentile(times, [25, 50, 75])
    return float((high - low) / middle)
