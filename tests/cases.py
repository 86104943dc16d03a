"""The architectures that every rule is held to: each a model and inputs, small enough for the dense Jacobian."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from architectures import computed, fourier, layers, sharing
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
    _vector_case("bilinear-form", lambda: [nn.Linear(4, 3), layers.Lambda(lambda x: x * x.flip(1))], 3),
    Case(
        "sequence",
        lambda o: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, o), layers.mean_over_positions()),
        _sequences,
    ),
    Case(
        "sequence-without-bias",
        lambda o: nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, o), layers.mean_over_positions()),
        _sequences,
    ),
    Case(
        "sequence-long-and-narrow",
        lambda o: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, o), layers.mean_over_positions()),
        lambda b: torch.randn(b, 12, 2),
    ),
    Case(
        "sequence-of-sequences",
        lambda o: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, o)),
        lambda b: torch.randn(b, 2, 2, 4),
    ),
    Case("sequence-outputs", lambda o: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, o)), _sequences),
    Case("sequence-first", layers.SequenceFirst, _sequences),
    Case("unbatched", layers.Unbatched, _vectors),
    Case("residual-inplace", layers.Residual, _vectors),
    # shared, tied, bare and frozen parameters
    Case("tied-transpose", sharing.Tied, _vectors),
    Case("tied-across-layers", sharing.TiedAcross, _vectors),
    Case("shared-bias", sharing.SharedBias, _vectors),
    Case("weight-from-both-sides", sharing.BothSides, _vectors),
    Case("scale-that-is-the-shift", sharing.TiedScale, _vectors),
    Case("layer-used-twice", sharing.Twice, _sequences),
    Case("weight-used-outside", sharing.Outside, _vectors),
    Case("bare-parameters", sharing.Bare, _vectors),
    Case("matrix-multiplied-and-scaled", sharing.Multiplied, _vectors),
    Case("frozen-layer", layers.frozen_first, _vectors),
    Case("frozen-weight-and-bias", layers.frozen_weight, _vectors),
    Case("zero-head", layers.zero_head, _vectors),
    # samples that depend on each other
    Case("mixing-samples", layers.Mixing, _vectors),
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
    Case("conv-over-frames", lambda o: layers.Frames(o, frames_first=False), lambda b: torch.randn(b, 3, 4, 4)),
    Case("conv-over-frames-first", lambda o: layers.Frames(o, frames_first=True), lambda b: torch.randn(b, 3, 4, 4)),
    _image_case("group-norm", lambda: [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)], 36),
    _image_case("instance-norm", lambda: [nn.Conv2d(2, 2, 3), nn.InstanceNorm2d(2, affine=True)], 18),
    _image_case("batch-norm-eval", lambda: [nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2).eval()], 18),
    _image_case(
        "batch-norm-eval-without-affine", lambda: [nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, affine=False).eval()], 18
    ),
    _image_case("layer-norm-of-images", lambda: [nn.Conv2d(2, 2, 3), nn.LayerNorm((2, 3, 3))], 18),
    Case("layer-norm-positions-first", layers.PositionsFirst, _sequences),
    Case("arithmetic", layers.Arithmetic, _sequences),
    Case("quotient", layers.Quotient, _vectors),
    Case("powers", layers.Powers, _vectors),
    _vector_case("layer-norm", lambda: [nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()], 5),
    _vector_case("rms-norm", lambda: [nn.Linear(4, 5), nn.RMSNorm(5), nn.Tanh()], 5),
    _vector_case("prelu", lambda: [nn.Linear(4, 5), nn.PReLU(5)], 5),
    _vector_case("weight-norm", lambda: [computed.weight_normalized(nn.Linear(4, 5)), nn.Tanh()], 5),
    Case(
        "embedding",
        lambda o: nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, o)),
        _tokens,
    ),
    Case("ensemble", layers.Ensemble, _vectors),
    Case("experts", layers.Experts, _sequences),
    Case("embedding-tied-to-head", sharing.TiedEmbedding, _tokens),
    Case("embedding-twice-with-padding", sharing.TwoTables, _tokens),
    Case(
        "embedding-bag",
        lambda o: nn.Sequential(nn.EmbeddingBag(6, 4, mode="mean"), nn.Tanh(), nn.Linear(4, o)),
        _tokens,
    ),
    Case("transposed-weights", sharing.Transposed, _vectors),
    Case("tokens", layers.Token, _sequences),
    Case("derivatives", layers.Derivatives, _vectors),
    Case("rnn", lambda o: layers.Recurrent(nn.RNN, o), _sequences),
    Case("lstm", lambda o: layers.Recurrent(nn.LSTM, o), _sequences),
    Case("gru", lambda o: layers.Recurrent(nn.GRU, o), _sequences),
    Case("attention", layers.Attention, _sequences),
    Case("transformer-layer", layers.transformer, _sequences),
    Case("bilinear-layer", layers.Bilinear, _vectors),
    # weights that are computed from parameters
    Case("weight-norm-of-sequences", lambda o: computed.Normalized(o, anew=False), _sequences),
    Case("weight-norm-twice", lambda o: computed.Normalized(o, anew=True), _sequences),
    Case("last-step", computed.LastStep, _sequences),
    Case("weight-norm-of-a-parameter", computed.OfAParameter, _vectors),
    Case("low-rank", computed.LowRank, _vectors),
    Case("standardized-kernels", computed.Standardized, _images),
    Case("generated-weight", computed.Generated, _vectors),
    Case("masked-weight", computed.Masked, _vectors),
    Case("positions-and-cross-attention", computed.Positions, _sequences),
    Case("centred-by-the-batch", computed.Centred, _vectors),
    # weights that are a parameter's entries
    Case("ntk-parametrization", computed.NTK, _sequences),
    Case("splines", computed.Spline, _vectors),
    Case("stacked-weights", computed.Stack, _vectors),
    Case("one-vector", computed.OneVector, _vectors),
    Case("overlapping-weights", computed.Overlapping, _vectors),
    # complex numbers
    Case("filters", fourier.Filters, _vectors),
    Case("fourier-operator", fourier.FourierOperator, lambda b: torch.randn(b, 5, 2)),
    Case("complex-layers", fourier.ComplexLayers, _vectors),
    Case("from-real-pairs", fourier.FromRealPairs, _vectors),
    # functions of the input that leave some samples without gradient
    Case(
        "dead-units",
        lambda o: nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, o)),
        _vectors,
    ),
]
