"""What cells and methods are called in tables and figures: by what sets them apart from the others of their suite."""

from collections.abc import Collection, Sequence
from typing import Any

from ..frozen import short
from ..methods import MethodConfig
from ..problems import ProblemConfig
from ..suite import Cell, Suite

__all__ = ["Labels", "name", "settings", "spelled"]

NAMES = {"ggn": "GGN", "sgd": "SGD", "adam": "Adam"}

# Of a table: its label stands for its place and content, and a unit makes no other cell.
UNTOLD = {"name", "path", "digest", "unit", "model"}


class Labels:
    """The labels of one suite's cells and methods.

    Args:
        suite: The suite; two of its cells never share a label, nor do two of its methods.
    """

    def __init__(self, suite: Suite):
        self._suite = suite
        self._cells = {cell: self._facts(cell) for cell in suite.cells()}
        self._varying = _varying(list(self._cells.values()))

    def cell(self, cell: Cell, without: Collection[str] = ()) -> str:
        """What sets the cell apart, such as "width 64, batch size 32"; its problem where nothing does.

        Args:
            cell: One of the suite's.
            without: What to leave untold, such as "width".
        """
        facts = self._cells[cell]
        told = [
            str(value) if key == "problem" else f"{spelled(key)} {value}"
            for key, value in facts.items()
            if key in self._varying and key not in without
        ]
        return ", ".join(told) or str(facts["problem"])

    def method(self, method: MethodConfig) -> str:
        """The method's name, with the settings that set it apart from others of its name."""
        namesakes = [other.settings for other in self._suite.methods if other.name == method.name]
        told = {key: value for key, value in method.settings.items() if key in _varying(namesakes)}
        alike = {other.name for other in self._suite.methods if name(other) == name(method)}
        called = name(method) if len(alike) == 1 else method.name
        return " ".join([called, _listed(told)]).strip()

    def variant(self, method: MethodConfig, settings: str) -> str:
        """The method's label, with which of its settings are meant: "tuned", "default", or "" where there is one."""
        return f"{self.method(method)}, {settings}" if settings else self.method(method)

    def numeric_axes(self, least: int) -> list[str]:
        """The axes of the sweep along which a number takes at least so many values."""
        axes = []
        for key in sorted(self._varying):
            values = {facts[key] for facts in self._cells.values() if key in facts}
            if len(values) >= least and all(isinstance(value, int | float) for value in values):
                axes.append(key)
        return axes

    def value(self, cell: Cell, axis: str) -> float:
        """Where a cell stands on a numeric axis."""
        return float(self._cells[cell][axis])

    def _facts(self, cell: Cell) -> dict[str, Any]:
        dumped = cell.model_dump(mode="json")
        problem = dumped.pop("problem")
        return {
            "problem": self._problem(cell.problem),
            **{key: value for key, value in problem.items() if key not in UNTOLD},
            **_model_facts(cell.problem),
            **dumped,
        }

    def _problem(self, problem: ProblemConfig) -> str:
        """Its label, or the whole path of a table where another file has the same name."""
        path = getattr(problem, "path", None)
        namesakes = {getattr(p, "path", None) for p in self._suite.problem if p.label == problem.label}
        return problem.label if path is None or len(namesakes) == 1 else str(path)


def name(method: MethodConfig) -> str:
    """A method's name as people write it."""
    return NAMES.get(method.name, method.label)


def spelled(key: str) -> str:
    """An axis or a setting as people write it."""
    return "number of parameters" if key == "parameters" else key.replace("_", " ")


def settings(method: MethodConfig) -> str:
    """All settings of a method that its identity rests on: what is switched off needs no telling."""
    identity = method.identity()
    return _listed({key: value for key, value in method.settings.items() if key in identity})


def _model_facts(problem: ProblemConfig) -> dict[str, Any]:
    """The user's own model by name, with its options."""
    model = problem.model
    return {} if model is None else {"model": model.label} | {k: short(v) for k, v in model.settings.items()}


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{spelled(key)} {short(value)}" for key, value in values.items())


def _varying(records: Sequence[dict[str, Any]]) -> set[str]:
    """The keys whose value differs between records that have them."""
    keys = {key for record in records for key in record}
    return {key for key in keys if len({str(record[key]) for record in records if key in record}) > 1}
