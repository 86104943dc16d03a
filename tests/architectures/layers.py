"""Networks whose layers, or the ways of samples through them, are special."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = [
    "Arithmetic",
    "Attention",
    "Bilinear",
    "Derivatives",
    "Ensemble",
    "Experts",
    "Frames",
    "Lambda",
    "Mixing",
    "PositionsFirst",
    "Powers",
    "Quotient",
    "Recurrent",
    "Residual",
    "SequenceFirst",
    "Token",
    "Unbatched",
    "frozen_first",
    "frozen_weight",
    "mean_over_positions",
    "transformer",
    "zero_head",
]


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def mean_over_positions() -> nn.Module:
    return Lambda(lambda x: x.mean(1))


class Token(nn.Module):
    """Tokens copied for every sample, before a sequence or to it; a scale and a shift that are seen in other shapes."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(2, 4))
        self.scale, self.shift = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(1, 4, 1))
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = torch.cat([self.first.expand(n, -1, -1), self.second.repeat(n, 1, 1)[:, :1], self.layer(x)], 1)
        x = x.tanh() * self.scale[:, None] + self.shift.view(4)
        return self.head((x + self.second.repeat(n, 1).view(n, 2, 4).sum(1, keepdim=True)).tanh().sum(1))


class Derivatives(nn.Module):
    """What a physics-informed network is fitted to: a function of the network and of its derivatives by its inputs."""

    def __init__(self, outputs: int):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, outputs))

    def forward(self, x: Tensor) -> Tensor:
        def slope(x: Tensor) -> Tensor:
            return torch.func.jvp(self.network, (x,), (torch.ones_like(x),))[1]

        return torch.func.jvp(slope, (x,), (torch.ones_like(x),))[1] + self.network(x) * slope(x)


class SequenceFirst(nn.Module):
    """Layers that see positions first and samples second."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(0, 1).reshape(-1, 4)
        return self.head(self.layer(rows).tanh()).view(x.shape[1], x.shape[0], -1).sum(0)


class Unbatched(nn.Module):
    """A layer that sees the whole batch as one long row of features."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.layer(row).tanh() for row in x]))


class Mixing(nn.Module):
    """Samples that see each other, as in attention over the batch."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return self.head(torch.softmax(h @ h.T, 1) @ h)


class Recurrent(nn.Module):
    """A recurrent network's last state."""

    def __init__(self, cell: type[nn.RNNBase], outputs: int):
        super().__init__()
        self.cell, self.head = cell(4, 3, batch_first=True), nn.Linear(3, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Attention(nn.Module):
    """Self-attention, averaged over positions."""

    def __init__(self, outputs: int):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Frames(nn.Module):
    """A convolution that sees the frames of a film as a batch."""

    def __init__(self, outputs: int, frames_first: bool):
        super().__init__()
        self.layer, self.norm, self.head = nn.Conv2d(1, 2, 2), nn.GroupNorm(1, 2), nn.Linear(18, outputs)
        self.frames_first = frames_first

    def forward(self, x: Tensor) -> Tensor:
        samples, frames = x.shape[:2]
        film = x.transpose(0, 1) if self.frames_first else x
        h = self.norm(self.layer(film.reshape(-1, 1, 4, 4))).tanh().flatten(1)
        h = h.view(frames, samples, -1).sum(0) if self.frames_first else h.view(samples, frames, -1).sum(1)
        return self.head(h)


class PositionsFirst(nn.Module):
    """Normalization and scales on tensors with positions first and samples second."""

    def __init__(self, outputs: int):
        super().__init__()
        self.norm, self.scale, self.head = nn.LayerNorm(4), nn.Parameter(torch.randn(3, 1, 4)), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.norm(x.transpose(0, 1)) * self.scale).tanh().sum(0))


class Arithmetic(nn.Module):
    """Parameters on either side of products, sums and differences, some of them scalars."""

    def __init__(self, outputs: int):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.rand(4) + 0.5) for _ in range(4))
        self.e, self.f = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.rand(3, 1) + 0.5)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a - self.b * x
        h = torch.add(h, self.c, alpha=2).tanh() * self.f
        h = torch.sub(h, self.d, alpha=3) * self.e
        return self.head((h * self.a * self.a - self.e).tanh().mean(1))


class Quotient(nn.Module):
    """Parameters above and below: divided by, divided by what is above, and both computed."""

    def __init__(self, outputs: int):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.rand(4) + 0.5)
        self.temperature, self.head = nn.Parameter(torch.tensor(0.7)), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = (x / self.a + self.a * self.b**2).tanh()
        h = self.b / (1.5 + h) + (self.a / self.b) / (1.5 - h)
        return self.head(h / self.temperature.exp()) / self.temperature


class Powers(nn.Module):
    """Exponents, which no rule recognises, one of them a computed one; beside a use of it that has a rule."""

    def __init__(self, outputs: int):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.rand(4) + 0.5)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(((1 + x.square()) ** self.a + (1 + x.square()) ** self.b.exp() + self.a * self.b**2).tanh())


class Residual(nn.Module):
    """A skip connection around an in-place activation."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, outputs)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.second(self.activation(self.first(x)))) + x)


class Bilinear(nn.Module):
    """A layer with two inputs."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer = nn.Bilinear(4, 4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x.sin())


class Ensemble(nn.Module):
    """Three networks side by side, each with weights and biases of its own, one that is both; and a bias for all."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(3, 5, outputs))
        self.bias, self.last_bias = nn.Parameter(torch.randn(3, 1, 5)), nn.Parameter(torch.randn(outputs))
        self.both = nn.Parameter(torch.randn(3, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.baddbmm(self.bias, x.expand(3, -1, -1), self.first).tanh()
        h = h * torch.baddbmm(self.both, x.expand(3, -1, -1).sum(2, keepdim=True), self.both).tanh()
        return torch.baddbmm(self.last_bias, h, self.second).tanh().sum(0)


class Experts(nn.Module):
    """Experts for every position, mixed by a gate; written with ``einsum``, and with their weights on the left."""

    def __init__(self, outputs: int):
        super().__init__()
        self.gate, self.head = nn.Linear(4, 3), nn.Linear(5, outputs)
        self.first, self.second = nn.Parameter(torch.randn(3, 5, 4)), nn.Parameter(torch.randn(3, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("ntd,epd->ntep", x, self.first).tanh()
        columns = h.permute(2, 3, 0, 1).flatten(2)  # (experts, 5, n·t)
        columns = torch.bmm(self.second, columns).tanh()
        columns = torch.bmm(columns.mT, self.second).mT  # the same weight on the right
        h = columns.unflatten(2, x.shape[:2])
        return self.head(torch.einsum("epnt,nte->ntp", h, self.gate(x).softmax(-1)).tanh().mean(1))


def frozen_first(outputs: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))
    model[0].requires_grad_(False)
    return model


def frozen_weight(outputs: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def zero_head(outputs: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))
    nn.init.zeros_(model[2].weight)
    return model


def transformer(outputs: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, mean_over_positions(), nn.Linear(4, outputs))
