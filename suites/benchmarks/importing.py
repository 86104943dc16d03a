"""How long ``import ggn_core`` takes once torch is there."""

import importlib
import sys

import torch  # noqa: F401  before the clock runs


class Import:
    """torch itself takes a second, and no commit of this project changes that."""

    def time_import_ggn_core(self) -> None:
        kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "ggn_core"}
        try:
            importlib.import_module("ggn_core")
        finally:
            sys.modules.update(kept)  # what is loaded already goes on with the modules that it knows
