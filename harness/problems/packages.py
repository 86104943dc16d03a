"""Packages that only some problems need: those of the extra ``images``."""

import importlib
from typing import Any

from ..errors import UserError

__all__ = ["needed"]


def needed(module: str) -> Any:
    """The module, imported.

    Raises:
        UserError: Its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.partition(".")[0].replace("skimage", "scikit-image")
        raise UserError(
            f"its images come with {package}, which is not installed: pip install 'gram-gauss-newton[images]'"
        ) from None
