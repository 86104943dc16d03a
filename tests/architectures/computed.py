"""Networks whose layers use tensors that are computed from parameters."""

import torch
from torch import Tensor, nn

__all__ = [
    "NTK",
    "Centred",
    "Generated",
    "LastStep",
    "LowRank",
    "Masked",
    "Normalized",
    "OfAParameter",
    "OneVector",
    "Overlapping",
    "Positions",
    "Spline",
    "Stack",
    "Standardized",
    "weight_normalized",
]


def weight_normalized(layer: nn.Module) -> nn.Module:
    """With norms of their own: at first they are those of the weight."""
    normalized = nn.utils.parametrizations.weight_norm(layer)
    nn.init.uniform_(normalized.parametrizations.weight.original0, 0.5, 2.0)
    return normalized


class Normalized(nn.Module):
    """A layer with a normalized weight over sequences, applied twice, and once more after its weight is made anew."""

    def __init__(self, outputs: int, anew: bool):
        super().__init__()
        self.anew, self.head = anew, nn.Linear(4, outputs)
        self.layer = weight_normalized(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        with nn.utils.parametrize.cached():
            x = self.layer(self.layer(x).tanh()).tanh()
        return self.head((self.layer(x).tanh() if self.anew else x).mean(1))


class LastStep(nn.Module):
    """The last of several steps, the others thrown away, after a computed scale and before another."""

    def __init__(self, outputs: int):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        last = (x * self.a.exp()).unbind(1)[-1] * self.b.exp()
        return self.head(last).tanh().chunk(1, 1)[0]


class OfAParameter(nn.Module):
    """A layer with a normalized weight whose input is a parameter, the same for every sample."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = weight_normalized(nn.Linear(4, 4)), nn.Linear(4, outputs)
        self.code = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.code.expand(len(x), 4)).tanh() * x)


class LowRank(nn.Module):
    """A layer whose weight is changed by a product of two thin matrices, with the plain weight used as well."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, outputs)
        self.a, self.b = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        changed = self.layer.weight + self.a @ self.b
        h = nn.functional.linear(x, changed, self.layer.bias).tanh()
        return self.head(self.layer(h).tanh() @ changed)


class Standardized(nn.Module):
    """A convolution whose kernels have mean zero and unit deviation, over images."""

    def __init__(self, outputs: int):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(27, outputs)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return self.head(nn.functional.conv2d(x, weight, self.conv.bias).tanh().flatten(1))


class Generated(nn.Module):
    """A layer whose weight and bias another layer makes, from a code that is learned."""

    def __init__(self, outputs: int):
        super().__init__()
        self.code, self.maker = nn.Parameter(torch.randn(3)), nn.Linear(3, 20)
        self.scale, self.head = nn.Parameter(torch.rand(4) + 0.5), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        made = self.maker(self.code).tanh()
        weight, bias = made[:16].view(4, 4), made[16:]
        return self.head(nn.functional.linear(x, weight * self.scale, bias * 2).tanh() * self.scale)


class Positions(nn.Module):
    """Learned positions, scaled by a learned number, before attention from a part of the sequence to all of it."""

    def __init__(self, outputs: int):
        super().__init__()
        self.table, self.gain = nn.Embedding(3, 4), nn.Parameter(torch.tensor(0.7))
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gain * self.table(torch.arange(3))
        return self.head(self.attention(x[:, :2], x, x, need_weights=False)[0].mean(1))


class Masked(nn.Module):
    """Weights that a mask prunes; and a mask that is trained, whose entries the layer's input is multiplied with."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, outputs)
        self.gate = nn.Parameter(torch.randn(2, 2))
        self.register_buffer("mask", (torch.rand(4, 4) < 0.6).to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.gate.sigmoid().view(4)
        return self.head(nn.functional.linear(x, self.layer.weight * self.mask, self.layer.bias).tanh())


class Centred(nn.Module):
    """A layer after which the batch's mean is taken off: below it samples meet, beside it weights are computed."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, outputs)
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x).tanh()
        h = h * self.gain.exp() - h.mean(0)
        return self.head(nn.functional.linear(h, self.second.weight.exp(), self.second.bias).tanh())


class NTK(nn.Module):
    """The NTK parametrization, over sequences; and a convolution whose kernels are scaled as well."""

    def __init__(self, outputs: int):
        super().__init__()
        self.conv, self.layer, self.head = nn.Conv1d(3, 2, 2), nn.Linear(3, 4), nn.Linear(4, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv1d(x, 3 * self.conv.weight, self.conv.bias).tanh()  # (n, 2, 3)
        x = nn.functional.linear(x, self.layer.weight / 3**0.5, -0.1 * self.layer.bias).tanh()
        return nn.functional.linear(x.mean(1), torch.tensor(0.5) * self.head.weight.clone())


class Spline(nn.Module):
    """A Kolmogorov-Arnold layer: a learned function of every entry for every output, written with ``einsum``."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 5, 3)), nn.Parameter(torch.randn(5, outputs, 3))

    def forward(self, x: Tensor) -> Tensor:
        for coefficients in (self.first, self.second):
            basis = torch.stack([x.sin(), x.cos(), x.tanh()], -1)
            x = torch.einsum("nik,iok->no", basis, coefficients)
        return x


class Stack(nn.Module):
    """Layers whose weights and biases are stacked in one parameter each, counted from both ends; tables as well."""

    def __init__(self, outputs: int):
        super().__init__()
        self.weights, self.biases = nn.Parameter(torch.randn(4, 4, 4)), nn.Parameter(torch.randn(3, 4))
        self.tables, self.head = nn.Parameter(torch.randn(2, 6, 4)), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.tables.unbind(0)
        token = (10 * x[:, 0]).abs().long() % 6
        x = x + nn.functional.embedding(token, low) * nn.functional.embedding(torch.full_like(token, 2), high)
        for weight, bias in ((self.weights[0], self.biases[0]), (self.weights[-1], self.biases[1])):
            x = nn.functional.linear(x, weight, bias).tanh()
        return self.head((x @ self.weights[1]).tanh() @ self.weights[-2].T)


class OneVector(nn.Module):
    """All weights cut from one vector."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs, self.vector = outputs, nn.Parameter(torch.randn(25 + 5 * outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.vector[:20].view(5, 4), self.vector[20:25]
        head = self.vector[-5 * self.outputs :].view(5, self.outputs)
        return nn.functional.linear(x, weight, bias).tanh() @ head


class Overlapping(nn.Module):
    """Layers that share a part of their weights, and one weight that goes by two names."""

    def __init__(self, outputs: int):
        super().__init__()
        self.rows, self.stack = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(3, 4, 4))
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(x, self.rows[:4]).tanh()
        x = nn.functional.linear(x, self.rows[2:]).tanh()
        x = nn.functional.linear(x, self.stack[2]).tanh()
        return self.head(nn.functional.linear(x, self.stack[-1]).tanh())
