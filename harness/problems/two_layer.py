"""The network of the paper's theorems, and data that fit their assumptions.

Source: arXiv 1905.11675, the setting of its theorems as recalled, unverified: one hidden layer, trained; fixed random
signs above it; inputs of bounded norm, no two of them parallel.
"""

import numpy as np
import torch
from torch import Tensor, nn

from .models import ACTIVATIONS

__all__ = ["TwoLayerNetwork", "kernel", "sphere"]

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class TwoLayerNetwork(nn.Module):
    """f(x) = M^(−1/2) Σ_r a_r σ(w_r · x), with w_r ~ N(0, I) trained and a_r = ±1 fixed.

    Args:
        inputs: Dimension of x.
        width: M.
        activation: σ, by name.
        seed: Of weights and signs; the global random state is left as it was.
    """

    signs: Tensor

    def __init__(self, inputs: int, width: int, activation: str, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.Linear(inputs, width, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.hidden.weight.normal_(generator=generator)
        self.activation = ACTIVATIONS[activation]()
        signs = 2.0 * torch.randint(0, 2, (width, 1), generator=generator, dtype=torch.float64) - 1
        self.register_buffer("signs", signs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.activation(self.hidden(inputs)) @ self.signs / len(self.signs) ** 0.5  # (n, 1)
        return outputs


def kernel(model: TwoLayerNetwork, left: Tensor, right: Tensor) -> Tensor:
    """The network's tangent kernel at its present weights, in closed form: nothing of ggn_core is used.

    K(x, z) = (x · z) · 1/M Σ_r σ′(w_r · x) σ′(w_r · z), because a_r² = 1.

    Args:
        model: The network.
        left: (m, d).
        right: (n, d).

    Returns:
        (m, n).
    """
    slopes = [_slopes(model, inputs) for inputs in (left, right)]
    values: Tensor = (left @ right.T) * (slopes[0] @ slopes[1].T) / len(model.signs)
    return values


def _slopes(model: TwoLayerNetwork, inputs: Tensor) -> Tensor:
    """σ′(w_r · x), (n, M)."""
    with torch.enable_grad():
        before = model.hidden(inputs).detach().requires_grad_()
        slopes: Tensor = torch.autograd.grad(model.activation(before).sum(), before)[0]
    return slopes


def sphere(samples: int, inputs: int, generator: np.random.Generator) -> FloatArray:
    """Points (n, d), uniform on the unit sphere."""
    points: FloatArray = generator.standard_normal((samples, inputs))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points
