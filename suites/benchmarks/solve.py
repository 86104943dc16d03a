"""The damped solve over sizes and solvers."""

from typing import ClassVar

import torch

from ggn_core.solve import solve_damped

from .networks import DEVICES, LARGE, THREADS, synchronize

SIZES = [128, 512, 2048] if LARGE else [128, 512]
DAMPING = {"cholesky": 1e-2, "pseudo-inverse": 0.0}


class Solve:
    """(G + damping·I) v = r for a Gram matrix of half rank: undamped, it takes the pseudo-inverse."""

    params: ClassVar = [list(DAMPING), SIZES, DEVICES]
    param_names = ("solver", "rows", "device")

    def setup(self, solver: str, rows: int, device: str) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise NotImplementedError(f"no {device} here")
        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        jacobian = torch.randn(rows, rows // 2)
        self.gram = (jacobian @ jacobian.T / rows).to(device)
        self.r = torch.randn(rows).to(device)
        found = solve_damped(self.gram, self.r, DAMPING[solver]).solver
        if found != solver:
            raise RuntimeError(f"the solve went through {found}, not {solver}")

    def time_solve(self, solver: str, rows: int, device: str) -> None:
        solve_damped(self.gram, self.r, DAMPING[solver])
        synchronize(device)
