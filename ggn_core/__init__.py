"""ggn_core: Gram-Gauss-Newton steps for PyTorch, exact, without forming the Jacobian."""

from .conjugate_gradient import ConjugateGradient
from .errors import GGNError, NonFiniteError, RankError, ResidualsError, SettingError, UnsupportedError
from .explain import Explanation, explain
from .gram import gram
from .info import StepInfo
from .operator import GramOperator
from .optimizer import GGN
from .schedule import DampingScheduler
from .search import Armijo, LevenbergMarquardt

__all__ = [
    "GGN",
    "Armijo",
    "ConjugateGradient",
    "DampingScheduler",
    "Explanation",
    "GGNError",
    "GramOperator",
    "LevenbergMarquardt",
    "NonFiniteError",
    "RankError",
    "ResidualsError",
    "SettingError",
    "StepInfo",
    "UnsupportedError",
    "explain",
    "gram",
]
