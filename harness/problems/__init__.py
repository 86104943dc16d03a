"""The problems that a suite can ask for: data and a model, by name."""

from .configs import PROBLEMS, ProblemConfig
from .problem import Problem, make_problem
from .samples import Batch, Samples

__all__ = ["PROBLEMS", "Batch", "Problem", "ProblemConfig", "Samples", "make_problem"]
