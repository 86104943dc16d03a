"""The workloads and traps in JAX, on the parameters of their PyTorch twins, under the same names."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

GROUPS = 8  # of GroupNorm, as in harness/problems/resnets.py, which needs torch
EPSILON = 1e-5  # torch's, of all normalizations

__all__ = ["NETWORKS", "Parameters"]

Parameters = dict[str, Array]
Network = Callable[[Parameters, Array], Array]


def _linear(p: Parameters, name: str, x: Array) -> Array:
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def _mlp(p: Parameters, x: Array) -> Array:
    layers = sorted({int(name.split(".")[0]) for name in p})
    for layer in layers[:-1]:
        x = jax.nn.relu(_linear(p, str(layer), x))
    return _linear(p, str(layers[-1]), x)


def _conv(p: Parameters, name: str, x: Array, stride: int = 1) -> Array:
    """3×3, images (n, height, width, channels), weights (3, 3, channels in, channels out): XLA's habit on CPUs."""
    return jax.lax.conv_general_dilated(
        x, p[f"{name}.weight"], (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _group_norm(p: Parameters, name: str, x: Array, groups: int = GROUPS) -> Array:
    n, height, width, channels = x.shape
    grouped = x.reshape(n, height, width, groups, channels // groups)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = grouped.var((1, 2, 4), keepdims=True)
    normal = ((grouped - mean) / jnp.sqrt(variance + EPSILON)).reshape(x.shape)
    return normal * p[f"{name}.weight"] + p[f"{name}.bias"]


def _resnet(p: Parameters, x: Array) -> Array:
    x = jax.nn.relu(_group_norm(p, "norm", _conv(p, "conv", x)))
    blocks = sorted({int(name.split(".")[1]) for name in p if name.startswith("blocks.")})
    for number in blocks:
        block = f"blocks.{number}"
        channels_in, channels = p[f"{block}.conv1.weight"].shape[2:]
        stride = channels // channels_in
        h = jax.nn.relu(_group_norm(p, f"{block}.norm1", _conv(p, f"{block}.conv1", x, stride)))
        h = _group_norm(p, f"{block}.norm2", _conv(p, f"{block}.conv2", h))
        shortcut = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, channels - channels_in)))
        x = jax.nn.relu(h + shortcut)
    return _linear(p, "head", x.mean((1, 2)))


def _tied_linears(p: Parameters, x: Array) -> Array:
    h = jnp.tanh(x @ p["first.weight"].T + p["first.bias"])
    return _linear(p, "head", jnp.tanh(h @ p["first.weight"].T + p["second.bias"]))


def _used_twice(p: Parameters, x: Array) -> Array:
    return _linear(p, "head", jnp.tanh(_linear(p, "layer", jnp.tanh(_linear(p, "layer", x)))))


def _bare_parameter(p: Parameters, x: Array) -> Array:
    return _linear(p, "head", jnp.tanh(_linear(p, "layer", x) * p["scale"]))


def _tied_embedding(p: Parameters, x: Array) -> Array:
    return jnp.sin(p["table.weight"][x]).mean(1) @ p["table.weight"].T


def _convolution(p: Parameters, x: Array) -> Array:
    h = jax.lax.conv_general_dilated(x, p["0.weight"], (1, 1), "VALID") + p["0.bias"][:, None, None]
    h = jnp.tanh(_group_norm(p, "1", h.transpose(0, 2, 3, 1), groups=2))  # (n, channels, 2, 2) -> (n, 2, 2, channels)
    return _linear(p, "4", h.transpose(0, 3, 1, 2).reshape(len(x), -1))


def _grouped(p: Parameters, x: Array) -> Array:
    h = jax.lax.conv_general_dilated(x, p["0.weight"], (1, 1), "VALID", feature_group_count=2)
    return _linear(p, "3", jnp.tanh(h + p["0.bias"][:, None, None]).reshape(len(x), -1))


def _batch_norm(p: Parameters, x: Array) -> Array:
    h = _linear(p, "0", x)
    normal = (h - h.mean(0)) / jnp.sqrt(h.var(0) + EPSILON)
    return _linear(p, "3", jnp.tanh(normal * p["1.weight"] + p["1.bias"]))


NETWORKS: dict[str, Network] = {
    "mlp-1": _mlp,
    "mlp-10": _mlp,
    "resnet-1": _resnet,
    "resnet-10": _resnet,
    "tied Linears": _tied_linears,
    "module used twice": _used_twice,
    "bare nn.Parameter": _bare_parameter,
    "grouped convolution": _grouped,
    "Embedding tied to head": _tied_embedding,
    "float64 kept": _convolution,
    "BatchNorm in training mode": _batch_norm,
}
