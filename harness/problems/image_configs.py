"""What a suite file may say of a problem whose inputs are images."""

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..errors import UserError
from .base_config import MLP, BaseConfig, Brought, Count, RandomSplit
from .images import IMAGE_SETS, ImageSet, Listing
from .resnets import GROUPS
from .tables import digest

__all__ = [
    "Afad", "FashionRotation", "ImageConfig", "ImageFolder", "MnistRotation", "RandomImages", "Rsna", "StereoDisparity",
    "UtkFace",
]  # fmt: skip

GGN_DATA = "GGN_DATA"  # the environment variable that names the folder of the user's data sets

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
            if self.network == "resnet_groupnorm" and self.width % GROUPS:
                raise ValueError(f"width of resnet_groupnorm: a multiple of its {GROUPS} groups, found {self.width}")
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


class BroughtImages(Brought, ImageConfig):
    """Images that are somewhere on the user's disk."""

    def content_when_read(self) -> str:
        # A suite can be read where its images are not, as for a list of all suites; ``require`` tells why.
        with contextlib.suppress(UserError):
            return self.content()
        return ""


class FashionRotation(BroughtImages):
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

    @property
    def files(self) -> tuple[Path, Path]:
        """Of the training images, and of the test images."""
        return self.path / "train-images-idx3-ubyte.gz", self.path / "t10k-images-idx3-ubyte.gz"

    def content(self) -> str:
        for path in self.files:
            if not path.is_file():
                raise UserError(
                    f"{path}: no such file; on Debian and Ubuntu 'apt install dataset-fashion-mnist' brings it, "
                    "elsewhere 'path' names the folder of Fashion-MNIST's four files"
                )
        return "-".join(digest(path)[:8] for path in self.files)


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


class RandomImages(ImageConfig):
    """Images and targets of Gaussian noise, for measuring what steps cost: there is nothing to be learnt.

    Attributes:
        channels: Of an image.
        side: Pixels a side.
        samples: Training images.
        test_samples: Test images.
    """

    name: Literal["random_images"] = "random_images"
    channels: Count = 3
    side: Annotated[int, Field(ge=8, le=1024)] = 32
    samples: Annotated[int, Field(ge=2)] = 128
    test_samples: Count = 32


class ImageFolder(BroughtImages, RandomSplit):
    """Images that the user brings as a folder: see docs/images.md.

    Attributes:
        path: The folder, or one that holds it; if nothing is said, what GGN_DATA named in the environment in which the
            suite was read.
        side: The images are made squares of so many pixels a side.
        channels: 1 for grey, 3 for red, green and blue.
        damaged: What to do about images that cannot be decoded: "error", or "skip" to leave them out.
    """

    path: Path | None = None
    side: Annotated[int, Field(ge=8, le=1024)] = 64
    channels: Literal[1, 3] = 3
    damaged: Literal["error", "skip"] = "error"

    @model_validator(mode="before")
    @classmethod
    def _folder_of_the_environment(cls, given: Any) -> Any:
        # Trials carry it: they may run where the environment is another one, as on a cluster.
        named = os.environ.get(GGN_DATA)
        if named and isinstance(given, dict) and given.get("path") is None:
            given = given | {"path": str(Path(named).expanduser().absolute())}
        return given

    def content(self) -> str:
        return self.listing().stamp[:16]

    @property
    def image_set(self) -> ImageSet:
        """Which data set this is."""
        return IMAGE_SETS[self.name]

    @property
    def target_unit(self) -> str:
        return self.image_set.unit

    def listing(self) -> Listing:
        """What the folder holds.

        Raises:
            UserError: There is no such folder, it is not this data set, or none is named.
        """
        if self.path is None:
            raise UserError(
                f"problem '{self.name}': {self.image_set.title} is not shipped: set {GGN_DATA} in the environment "
                "to the folder that holds it, or 'path' in the suite file; docs/images.md tells where to get it"
            )
        return self.image_set.listing(self.path)

    def identity(self) -> dict[str, Any]:
        """Images that are left out as damaged leave no choice to count."""
        return {key: value for key, value in super().identity().items() if key != "damaged"}


class Afad(ImageFolder):
    """A person's age from a photograph of the face: AFAD-Lite or AFAD-Full, which the user brings."""

    name: Literal["afad"] = "afad"


class UtkFace(ImageFolder):
    """A person's age from a photograph of the face: UTKFace, which the user brings."""

    name: Literal["utkface"] = "utkface"


class Rsna(ImageFolder):
    """A child's bone age from an X-ray of the hand: RSNA Bone Age, which the user brings.

    Attributes:
        test: What is held out: "random", a part of the challenge's training set, or its own "validation" or "test" set.
    """

    name: Literal["rsna"] = "rsna"
    channels: Literal[1, 3] = 1
    test: Literal["random", "validation", "test"] = "random"
