"""What a suite file may say of a problem whose inputs are images."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .base_config import MLP, BaseConfig, Count, RandomSplit

__all__ = ["FashionRotation", "ImageConfig", "MnistRotation", "StereoDisparity"]

Network = Literal["cnn", "resnet_fixup", "resnet_batchnorm", "resnet_groupnorm"]
Degrees = Annotated[float, Field(gt=0, le=180)]

CNN_DEPTH, RESNET_DEPTH = 3, 32


class ImageConfig(BaseConfig):
    """What every problem of images has: a network for them.

    Attributes:
        network: "cnn", convolutions and a linear layer, or a residual network: with Fixup initialization and no
            normalization, with BatchNorm (samples meet, so Gram-Gauss-Newton refuses it), or with GroupNorm.
        width: Channels of the first convolutions.
        depth: Of "cnn" the convolutions, 3 if nothing is said; of a residual network the layers, 32 if nothing is said.
        activation: Of "cnn"; a residual network has ReLU.
        zero_head: Whether "resnet_fixup" starts with a last layer of zeros, as its authors have it. Then at the first
            step all derivatives but that layer's vanish: an undamped Gram-Gauss-Newton step has no unique solution.
    """

    NETWORK: ClassVar[tuple[str, ...]] = (*MLP, "network", "zero_head")

    network: Network = "cnn"
    width: Count = 16
    depth: Count = CNN_DEPTH
    zero_head: bool = True

    @model_validator(mode="before")
    @classmethod
    def _usual_depth(cls, given: Any) -> Any:
        if isinstance(given, dict) and "depth" not in given:
            given = given | {"depth": CNN_DEPTH if given.get("network", "cnn") == "cnn" else RESNET_DEPTH}
        return given

    @model_validator(mode="after")
    def _network_fits(self) -> Self:
        if self.network != "cnn":
            if self.depth < 8 or self.depth % 6 != 2:
                raise ValueError(f"depth of {self.network}: 8, 14, 20, 26, 32, … (6n + 2), found {self.depth}")
            if self.activation != "relu":
                raise ValueError(f"activation of {self.network}: relu, found {self.activation!r}")
            if self.network == "resnet_groupnorm" and self.width % 8:
                raise ValueError(f"width of resnet_groupnorm: a multiple of its 8 groups, found {self.width}")
        if self.network != "resnet_fixup" and not self.zero_head:
            raise ValueError(f"zero_head: false is for resnet_fixup alone, the network is {self.network}")
        return self

    @property
    def network_title(self) -> str:
        return f"{self.network}-{self.depth}, width {self.width}"


class MnistRotation(ImageConfig, RandomSplit):
    """The angle by which an image of a handwritten digit was turned: MNIST, 5000 × 28 × 28, the seed draws angles."""

    name: Literal["mnist_rotation"] = "mnist_rotation"
    degrees: Degrees = 45.0

    @property
    def target_unit(self) -> str:
        return "degrees"


class FashionRotation(ImageConfig):
    """The angle by which an image of a garment was turned: Fashion-MNIST, 28 × 28, angles drawn by the seed.

    Attributes:
        path: The folder of its four files, as Debian's package dataset-fashion-mnist installs them.
        samples: Training images, drawn by the seed from the 60,000; the test set is the 10,000 that come as such.
        degrees: The largest angle.
    """

    name: Literal["fashion_rotation"] = "fashion_rotation"
    path: Path = Path("/usr/share/datasets/fashion-mnist")
    samples: Annotated[int, Field(ge=2, le=60_000)] = 10_000
    degrees: Degrees = 45.0

    @property
    def target_unit(self) -> str:
        return "degrees"

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().identity().items() if key != "path"}


class StereoDisparity(ImageConfig):
    """How far a point lies apart in two photographs of a scene: the Middlebury stereo pair "Motorcycle".

    The input of a pixel is a cost image, 16 × 64: how unlike the other photograph's pixels are, over 16 rows and 64
    shifts. One scene: a demonstration.

    Attributes:
        samples: Training pixels, drawn by the seed.
        test_samples: Likewise; of other rows of the photograph, with a gap between.
    """

    name: Literal["stereo_disparity"] = "stereo_disparity"
    samples: Annotated[int, Field(ge=2, le=100_000)] = 4000
    test_samples: Annotated[int, Field(ge=1, le=30_000)] = 1000

    @property
    def target_unit(self) -> str:
        return "pixels"
