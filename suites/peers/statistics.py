"""From seconds to ratios; from errors to verdicts."""

from harness.analysis.statistics import Interval, paired_ratio

from .record import SOMAX, Record, Row
from .traps import FLOAT64

__all__ = ["beside", "least_ratio", "ratio", "rival_ratio", "wrong"]

# Relative errors above which a result is wrong, not merely rounded: 1% in float32, where a step's rounding is amplified
# by the condition of its linear system; what only float64 can reach where float64 was asked for.
LIMIT, LIMIT_FLOAT64 = 1e-2, 1e-8


def ratio(row: Row, rival: str = "sgd") -> Interval | None:
    """The peer's seconds over the rival's: the median of the ratios of paired rounds, with its 95% interval."""
    if rival not in row.seconds:
        return None
    return paired_ratio(row.seconds["peer"], row.seconds[rival])


def least_ratio(row: Row) -> float | None:
    """The peer's least seconds over SGD's least: what is left where other programs disturbed most rounds."""
    return min(row.seconds["peer"]) / min(row.seconds["sgd"]) if row.seconds else None


def rival_ratio(record: Record, workload: str, rival: str) -> Interval | None:
    """A rival's seconds over SGD's."""
    row = beside(record, workload, rival)
    return paired_ratio(row.seconds[rival], row.seconds["sgd"]) if row else None


def beside(record: Record, workload: str, rival: str) -> Row | None:
    """The row beside which a rival is shown: that of the first PyTorch step that was measured on the workload."""
    steps = (r for r in record.rows if (r.workload, r.quantity) == (workload, "step") and r.peer != SOMAX)
    return next((row for row in steps if {rival, "sgd"} <= row.seconds.keys()), None)


def wrong(row: Row) -> bool:
    """Whether a value was returned that is not the truth; NaN is not."""
    if row.error is None:
        return False
    return not row.error <= (LIMIT_FLOAT64 if row.workload == FLOAT64 else LIMIT)
