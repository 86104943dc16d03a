"""Networks with complex numbers on the way, and complex parameters among the real ones."""

from typing import Self

import torch
from torch import Tensor, nn

__all__ = ["ComplexLayers", "Filters", "FourierOperator", "FromRealPairs"]


def _complex(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, dtype=torch.complex64))


class Complex(nn.Module):
    """A module whose ``double()`` reaches complex parameters, too."""

    def double(self) -> Self:
        for parameter in self.parameters():
            if parameter.is_complex():
                parameter.data = parameter.data.to(torch.complex128)
        return super().double()


class Filters(Complex):
    """Frequencies that are scaled, shifted and divided, by real and by complex parameters."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, outputs)
        self.scale, self.divisor = nn.Parameter(torch.randn(4)), nn.Parameter(torch.rand(4) + 1)
        self.shift, self.filter, self.quotient = nn.Parameter(torch.randn(4)), _complex(4), _complex(1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.rfft(self.layer(x).tanh())
        x = (x * self.scale + self.shift) / self.divisor * self.filter - self.filter
        return self.head(torch.fft.irfft(x / self.quotient, n=6).tanh())


class FourierOperator(Complex):
    """A Fourier neural operator: a product of channels for every frequency, beside a linear layer for every point."""

    def __init__(self, outputs: int):
        super().__init__()
        self.lift, self.pointwise, self.head = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, outputs)
        self.spectral = _complex(3, 3, 2)  # (channels, channels, frequencies)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)  # (n, 5, 3)
        modes = torch.fft.rfft(x, dim=1)[:, :2]
        modes = torch.einsum("nki,iok->nko", modes, self.spectral)
        x = (torch.fft.irfft(modes, n=5, dim=1) + self.pointwise(x)).tanh()
        return self.head(x).mean(1)


class ComplexLayers(Complex):
    """Complex linear layers, with the weight, its transpose and its adjoint; and a number that is a parameter."""

    def __init__(self, outputs: int):
        super().__init__()
        self.weight, self.bias, self.number = _complex(4, 4), _complex(4), _complex()
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        z = nn.functional.linear(torch.complex(x, x.sin()), self.weight, self.bias)
        z = (z.sin() @ self.weight) + self.number * z
        z = z @ self.weight.mH * 0.3
        return self.head(torch.cat([z.real, z.abs()], -1).to(self.head.weight.dtype).tanh())


class FromRealPairs(Complex):
    """Complex weights of which real pairs are the parameters, and real weights made of complex frequencies."""

    def __init__(self, outputs: int):
        super().__init__()
        self.pairs, self.frequencies = nn.Parameter(torch.randn(4, 3, 2)), _complex(outputs, 3)
        self.real = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.view_as_complex(self.pairs)
        z = x.to(weight.dtype) @ weight
        z = z.tanh() @ self.real.to(weight.dtype)
        head = torch.fft.irfft(self.frequencies, n=4).to(self.real.dtype)  # (outputs, 4)
        return nn.functional.linear(torch.cat([z.real, z.imag.sum(1, keepdim=True)], 1).tanh(), head)
