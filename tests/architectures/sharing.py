"""Networks whose parameters are shared, used outside their layers, or belong to none."""

import torch
from torch import Tensor, nn

__all__ = [
    "Bare",
    "BothSides",
    "Multiplied",
    "Outside",
    "SharedBias",
    "Tied",
    "TiedAcross",
    "TiedEmbedding",
    "TiedScale",
    "Transposed",
    "Twice",
    "TwoTables",
]


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder's transpose."""

    def __init__(self, outputs: int):
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).tanh() @ self.encoder.weight)


class TiedAcross(nn.Module):
    """Two layers that share a weight and keep their own biases."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, outputs)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


class SharedBias(nn.Module):
    """One bias for two layers with weights of their own."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, outputs)
        self.second.bias = self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


class Twice(nn.Module):
    """A layer applied twice, once to a vector and once to a sequence."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        sequence = self.layer(x).tanh()
        return self.head(self.layer(sequence.mean(1)).tanh() + sequence.sum(1))


class Outside(nn.Module):
    """A layer's weight used once more, outside the layer and in another way."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).tanh()) + (self.layer.weight**2).sum() * x.mean(1, keepdim=True)


class Bare(nn.Module):
    """Parameters that no layer owns: a scale, a shift, a product, an unused-looking exponent."""

    def __init__(self, outputs: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1, 4))
        self.matrix = nn.Parameter(torch.randn(4, outputs))
        self.exponent = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale + self.shift).tanh() @ self.matrix * self.exponent.exp()


class Multiplied(nn.Module):
    """A matrix that vectors are multiplied with from the left, and that is scaled entry by entry as well."""

    def __init__(self, outputs: int):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 3))
        self.head = nn.Linear(3, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ self.matrix).tanh() + (x.unsqueeze(2) * self.matrix).square().sum(1))


class Transposed(nn.Module):
    """Matrices in every way that a product with them is written."""

    def __init__(self, outputs: int):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(4, 4)) for _ in range(3))
        self.d = nn.Parameter(torch.randn(outputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = (x @ self.a.T).tanh()
        h = (h @ self.b.mT.mT).tanh() + h @ self.b.permute(-1, 0)
        h = (h @ self.c.transpose(-1, 0)).tanh() + h @ self.c.transpose(1, 1)
        return h @ self.d.t().t().t()


class BothSides(nn.Module):
    """A square weight and its bias, used by Wᵀ in one layer and by W in the next."""

    def __init__(self, outputs: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.linear(x, self.weight, self.bias).tanh()
        return self.head(torch.addmm(self.bias, h, self.weight).tanh())


class TiedScale(nn.Module):
    """Group normalization that scales by what it shifts by; between, a part of no width."""

    def __init__(self, outputs: int):
        super().__init__()
        self.scale, self.layer, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        all_of_it, nothing = self.layer(x).split([4, 0], 1)
        h = torch.cat([all_of_it.tanh(), nothing], 1)
        return self.head(nn.functional.group_norm(h, 2, self.scale, self.scale).tanh())


class TiedEmbedding(nn.Module):
    """A language model's habit: the head's weight is the table."""

    def __init__(self, outputs: int):
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        logits = nn.functional.linear(self.table(x).sin(), self.table.weight)
        return logits.tanh().mean(1)[:, : self.outputs]


class TwoTables(nn.Module):
    """A table looked up twice, with padding, and positions of its own."""

    def __init__(self, outputs: int):
        super().__init__()
        self.table, self.position = nn.Embedding(6, 4, padding_idx=2), nn.Embedding(3, 4)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        h = self.table(x) + self.position(places) + self.table(x.flip(1)).sin()
        return self.head(h.tanh().mean(1))
