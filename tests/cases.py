"""The architectures that every rule is held to: each a model and inputs, small enough for the dense Jacobian."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """A model with ``outputs`` values a sample, and inputs of a batch.

    Attributes:
        name: Shown in the test's name.
        model: From the number of outputs.
        inputs: From the batch size.
    """

    name: str
    model: Callable[[int], nn.Module]
    inputs: Callable[[int], Tensor]


def _vectors(batch: int) -> Tensor:
    return torch.randn(batch, 4)


def _sequences(batch: int) -> Tensor:
    return torch.randn(batch, 3, 4)


def _images(batch: int) -> Tensor:
    return torch.randn(batch, 2, 5, 5)


def _tokens(batch: int) -> Tensor:
    return torch.randint(0, 6, (batch, 3))


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _mean_over_positions() -> nn.Module:
    return Lambda(lambda x: x.mean(1))


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


def _weight_normalized(layer: nn.Module) -> nn.Module:
    """With norms of their own: at first they are those of the weight."""
    normalized = nn.utils.parametrizations.weight_norm(layer)
    nn.init.uniform_(normalized.parametrizations.weight.original0, 0.5, 2.0)
    return normalized


class Normalized(nn.Module):
    """A layer with a normalized weight over sequences, applied twice, and once more after its weight is made anew."""

    def __init__(self, outputs: int, anew: bool):
        super().__init__()
        self.anew, self.head = anew, nn.Linear(4, outputs)
        self.layer = _weight_normalized(nn.Linear(4, 4))

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
        self.layer, self.head = _weight_normalized(nn.Linear(4, 4)), nn.Linear(4, outputs)
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


def _frozen_first(outputs: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))
    model[0].requires_grad_(False)
    return model


def _frozen_weight(outputs: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def _zero_head(outputs: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))
    nn.init.zeros_(model[2].weight)
    return model


def _transformer(outputs: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, _mean_over_positions(), nn.Linear(4, outputs))


def _image_case(name: str, make: Callable[[], list[nn.Module]], features: int) -> Case:
    def model(outputs: int) -> nn.Module:
        return nn.Sequential(*make(), nn.Tanh(), nn.Flatten(), nn.Linear(features, outputs))

    return Case(name, model, _images)


def _vector_case(name: str, make: Callable[[], list[nn.Module]], features: int) -> Case:
    return Case(name, lambda outputs: nn.Sequential(*make(), nn.Linear(features, outputs)), _vectors)


CASES = [
    # linear layers
    _vector_case("linear", list, 4),
    _vector_case("mlp-tanh", lambda: [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh()], 3),
    _vector_case("mlp-relu", lambda: [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()], 8),
    _vector_case("mlp-relu-inplace", lambda: [nn.Linear(4, 8), nn.ReLU(inplace=True)], 8),
    _vector_case("mlp-without-bias", lambda: [nn.Linear(4, 5, bias=False), nn.Softplus()], 5),
    _vector_case("mlp-gelu-wide", lambda: [nn.Linear(4, 40), nn.GELU()], 40),
    _vector_case("bilinear-form", lambda: [nn.Linear(4, 3), Lambda(lambda x: x * x.flip(1))], 3),
    Case(
        "sequence",
        lambda o: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, o), _mean_over_positions()),
        _sequences,
    ),
    Case(
        "sequence-without-bias",
        lambda o: nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, o), _mean_over_positions()),
        _sequences,
    ),
    Case(
        "sequence-long-and-narrow",
        lambda o: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, o), _mean_over_positions()),
        lambda b: torch.randn(b, 12, 2),
    ),
    Case(
        "sequence-of-sequences",
        lambda o: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, o)),
        lambda b: torch.randn(b, 2, 2, 4),
    ),
    Case("sequence-outputs", lambda o: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, o)), _sequences),
    Case("sequence-first", SequenceFirst, _sequences),
    Case("unbatched", Unbatched, _vectors),
    Case("residual-inplace", Residual, _vectors),
    # shared, tied, bare and frozen parameters
    Case("tied-transpose", Tied, _vectors),
    Case("tied-across-layers", TiedAcross, _vectors),
    Case("shared-bias", SharedBias, _vectors),
    Case("weight-from-both-sides", BothSides, _vectors),
    Case("scale-that-is-the-shift", TiedScale, _vectors),
    Case("layer-used-twice", Twice, _sequences),
    Case("weight-used-outside", Outside, _vectors),
    Case("bare-parameters", Bare, _vectors),
    Case("matrix-multiplied-and-scaled", Multiplied, _vectors),
    Case("frozen-layer", _frozen_first, _vectors),
    Case("frozen-weight-and-bias", _frozen_weight, _vectors),
    Case("zero-head", _zero_head, _vectors),
    # samples that depend on each other
    Case("mixing-samples", Mixing, _vectors),
    # other layers
    _image_case("conv2d", lambda: [nn.Conv2d(2, 3, 3)], 27),
    _image_case("conv2d-strided-padded", lambda: [nn.Conv2d(2, 3, 3, stride=2, padding=1)], 27),
    _image_case("conv2d-grouped", lambda: [nn.Conv2d(2, 4, 3, groups=2)], 36),
    _image_case("conv2d-depthwise", lambda: [nn.Conv2d(2, 2, 3, groups=2, bias=False)], 18),
    _image_case(
        "conv2d-dilated-circular", lambda: [nn.Conv2d(2, 2, 2, dilation=2, padding=1, padding_mode="circular")], 50
    ),
    _image_case("conv2d-same-reflect", lambda: [nn.Conv2d(2, 2, (2, 3), padding="same", padding_mode="reflect")], 50),
    _image_case("conv2d-inplace", lambda: [nn.Conv2d(2, 2, 3), nn.ReLU(inplace=True), nn.Conv2d(2, 2, 2)], 8),
    _image_case("conv-transpose2d", lambda: [nn.ConvTranspose2d(2, 1, 2)], 36),
    _image_case(
        "conv-transpose2d-strided-grouped",
        lambda: [nn.ConvTranspose2d(2, 2, 2, stride=2, output_padding=1, groups=2, padding=1)],
        162,
    ),
    _image_case("max-pool", lambda: [nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), nn.Conv2d(3, 2, 1)], 8),
    Case(
        "conv1d",
        lambda o: nn.Sequential(nn.Conv1d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, o)),
        _sequences,
    ),
    Case(
        "conv3d",
        lambda o: nn.Sequential(nn.Conv3d(1, 2, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(4, o)),
        lambda b: torch.randn(b, 1, 2, 3, 4),
    ),
    Case("conv-over-frames", lambda o: Frames(o, frames_first=False), lambda b: torch.randn(b, 3, 4, 4)),
    Case("conv-over-frames-first", lambda o: Frames(o, frames_first=True), lambda b: torch.randn(b, 3, 4, 4)),
    _image_case("group-norm", lambda: [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)], 36),
    _image_case("instance-norm", lambda: [nn.Conv2d(2, 2, 3), nn.InstanceNorm2d(2, affine=True)], 18),
    _image_case("batch-norm-eval", lambda: [nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2).eval()], 18),
    _image_case(
        "batch-norm-eval-without-affine", lambda: [nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, affine=False).eval()], 18
    ),
    _image_case("layer-norm-of-images", lambda: [nn.Conv2d(2, 2, 3), nn.LayerNorm((2, 3, 3))], 18),
    Case("layer-norm-positions-first", PositionsFirst, _sequences),
    Case("arithmetic", Arithmetic, _sequences),
    Case("quotient", Quotient, _vectors),
    Case("powers", Powers, _vectors),
    _vector_case("layer-norm", lambda: [nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()], 5),
    _vector_case("rms-norm", lambda: [nn.Linear(4, 5), nn.RMSNorm(5), nn.Tanh()], 5),
    _vector_case("prelu", lambda: [nn.Linear(4, 5), nn.PReLU(5)], 5),
    _vector_case("weight-norm", lambda: [_weight_normalized(nn.Linear(4, 5)), nn.Tanh()], 5),
    Case(
        "embedding",
        lambda o: nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, o)),
        _tokens,
    ),
    Case("ensemble", Ensemble, _vectors),
    Case("experts", Experts, _sequences),
    # weights that are computed from parameters
    Case("weight-norm-of-sequences", lambda o: Normalized(o, anew=False), _sequences),
    Case("weight-norm-twice", lambda o: Normalized(o, anew=True), _sequences),
    Case("last-step", LastStep, _sequences),
    Case("weight-norm-of-a-parameter", OfAParameter, _vectors),
    Case("low-rank", LowRank, _vectors),
    Case("standardized-kernels", Standardized, _images),
    Case("generated-weight", Generated, _vectors),
    Case("masked-weight", Masked, _vectors),
    Case("positions-and-cross-attention", Positions, _sequences),
    Case("centred-by-the-batch", Centred, _vectors),
    Case("embedding-tied-to-head", TiedEmbedding, _tokens),
    Case("embedding-twice-with-padding", TwoTables, _tokens),
    Case(
        "embedding-bag",
        lambda o: nn.Sequential(nn.EmbeddingBag(6, 4, mode="mean"), nn.Tanh(), nn.Linear(4, o)),
        _tokens,
    ),
    Case("transposed-weights", Transposed, _vectors),
    Case("tokens", Token, _sequences),
    Case("derivatives", Derivatives, _vectors),
    Case("rnn", lambda o: Recurrent(nn.RNN, o), _sequences),
    Case("lstm", lambda o: Recurrent(nn.LSTM, o), _sequences),
    Case("gru", lambda o: Recurrent(nn.GRU, o), _sequences),
    Case("attention", Attention, _sequences),
    Case("transformer-layer", _transformer, _sequences),
    Case("bilinear-layer", Bilinear, _vectors),
    # functions of the input that leave some samples without gradient
    Case(
        "dead-units",
        lambda o: nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, o)),
        _vectors,
    ),
]
