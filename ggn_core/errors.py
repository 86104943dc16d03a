"""The errors of ggn_core: each says what happened, where, and the way out."""

__all__ = ["GGNError", "NonFiniteError", "RankError", "ResidualsError", "SettingError", "UnsupportedError"]


class GGNError(Exception):
    """Base class of every error that ggn_core raises on purpose."""


class SettingError(GGNError, ValueError):
    """A setting of the optimizer lies outside its allowed values."""


class ResidualsError(GGNError, ValueError):
    """What the closure or the model returned cannot serve as residuals."""


class UnsupportedError(GGNError, NotImplementedError):
    """The model does something for which an exact step is not available."""


class NonFiniteError(GGNError, ArithmeticError):
    """NaN or infinity in the residuals or in the Gram matrix; the parameters were left untouched."""


class RankError(GGNError, RuntimeError):
    """One process of a group failed, so that none can take the step."""


class CompiledError(UnsupportedError):
    """The residuals come from a function that ``torch.compile`` has compiled."""
