"""The problems that a suite can ask for: data and a model, by name."""

from .configs import MLP, PROBLEMS, ProblemConfig
from .problem import Problem, Split, make_problem

__all__ = ["MLP", "PROBLEMS", "Problem", "ProblemConfig", "Split", "make_problem"]
