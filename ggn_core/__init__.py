"""ggn_core: Gram-Gauss-Newton steps for PyTorch, exact, without forming the Jacobian."""

from .errors import GGNError, NonFiniteError, ResidualsError, SettingError, UnsupportedError
from .gram import gram
from .operator import GramOperator
from .optimizer import GGN, StepInfo

__all__ = [
    "GGN",
    "GGNError",
    "GramOperator",
    "NonFiniteError",
    "ResidualsError",
    "SettingError",
    "StepInfo",
    "UnsupportedError",
    "gram",
]
