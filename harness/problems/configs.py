"""What a suite file may say of a problem."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ..errors import UserError
from ..frozen import as_tuple
from .base_config import BaseConfig, Brought, Count, RandomSplit
from .image_configs import Afad, FashionRotation, MnistRotation, RandomImages, Rsna, StereoDisparity, UtkFace
from .tables import digest

__all__ = [
    "PROBLEMS", "Abalone", "Afad", "Concrete", "CsvTable", "FashionRotation", "MnistRotation", "ProblemConfig",
    "RandomImages", "RotatedDigits", "Rsna", "StereoDisparity", "TeacherStudent", "TwoLayer", "UtkFace",
]  # fmt: skip


class Concrete(RandomSplit):
    """Compressive strength of concrete from its mixture and age: UCI 165, 1030 × 8."""

    name: Literal["concrete"] = "concrete"

    @property
    def target_unit(self) -> str:
        return "MPa"


class Abalone(RandomSplit):
    """Rings of abalones, a proxy for age, from sex and measurements: UCI 1, 4177 × 8."""

    name: Literal["abalone"] = "abalone"

    @property
    def target_unit(self) -> str:
        return "rings"


class CsvTable(Brought, RandomSplit):
    """The user's own table: a CSV file with a header line."""

    name: Literal["csv"] = "csv"
    path: Path
    target: Annotated[str, Field(coerce_numbers_to_str=True)]
    unit: str = ""
    categorical: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()

    def content(self) -> str:
        if not self.path.is_file():
            raise UserError(f"{self.path}: {'not a file' if self.path.exists() else 'no such file'}")
        return digest(self.path)

    @property
    def label(self) -> str:
        return self.path.stem

    @property
    def target_unit(self) -> str:
        return self.unit

    def identity(self) -> dict[str, Any]:
        """The content of the file counts, not its place: an edited file makes new trials, a moved one does not."""
        return {key: value for key, value in super().identity().items() if key != "unit"}


class TeacherStudent(BaseConfig):
    """A student network learns a random teacher network of the same activation, from Gaussian inputs.

    Every seed draws a teacher, inputs and noise of its own.
    """

    name: Literal["teacher_student"] = "teacher_student"
    inputs: Count = 8
    samples: Annotated[int, Field(ge=2)] = 512
    test_samples: Annotated[int, Field(ge=1)] = 512
    teacher_width: Count = 16
    teacher_depth: Count = 1
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class RotatedDigits(RandomSplit):
    """The angle by which an image of a handwritten digit was turned: UCI 80, 1797 × 8 × 8, angles drawn by the seed.

    Its model is a convolutional network: ``width`` channels in the first of ``depth`` layers, twice as many in the
    others.
    """

    name: Literal["rotated_digits"] = "rotated_digits"
    width: Count = 16
    degrees: Annotated[float, Field(gt=0, le=180)] = 45.0

    @property
    def target_unit(self) -> str:
        return "degrees"


class TwoLayer(BaseConfig):
    """The theorems' network: f = M^(−1/2) Σ a_r σ(w_r·x), fixed signs a_r, M = ``width``, on the unit sphere.

    Every seed draws inputs, weights and targets; targets lie at a root mean square distance of 1 from the network's
    initial outputs.
    """

    name: Literal["two_layer"] = "two_layer"
    width: Count = 1024
    depth: Literal[1] = 1
    activation: Literal["relu", "tanh", "softplus", "gelu"] = "softplus"
    inputs: Annotated[int, Field(ge=2)] = 10
    samples: Annotated[int, Field(ge=2)] = 20
    test_samples: Annotated[int, Field(ge=1)] = 50


ProblemConfig = Annotated[
    Concrete
    | Abalone
    | CsvTable
    | TeacherStudent
    | RotatedDigits
    | MnistRotation
    | FashionRotation
    | StereoDisparity
    | RandomImages
    | Afad
    | Rsna
    | UtkFace
    | TwoLayer,
    Field(discriminator="name"),
]

PROBLEMS: dict[str, type[BaseConfig]] = {
    "concrete": Concrete,
    "abalone": Abalone,
    "csv": CsvTable,
    "teacher_student": TeacherStudent,
    "rotated_digits": RotatedDigits,
    "mnist_rotation": MnistRotation,
    "fashion_rotation": FashionRotation,
    "stereo_disparity": StereoDisparity,
    "random_images": RandomImages,
    "afad": Afad,
    "rsna": Rsna,
    "utkface": UtkFace,
    "two_layer": TwoLayer,
}
