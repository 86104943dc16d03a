"""What a suite file may say of a problem."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ..errors import UserError
from ..frozen import Frozen, as_tuple, short
from ..plugins import OwnCode
from .tables import digest

__all__ = [
    "MLP", "PROBLEMS", "Abalone", "Concrete", "CsvTable", "ProblemConfig", "RotatedDigits", "TeacherStudent",
    "TwoLayer",
]  # fmt: skip

MLP = ("width", "depth", "activation")  # what describes the built-in model

Count = Annotated[int, Field(ge=1)]


class _Problem(Frozen):
    """What every problem has: a name, and for its model an MLP with ``depth`` hidden layers of ``width`` units.

    Or a model of the user's own; then width, depth and activation mean nothing and are left out of every record.
    """

    name: str
    width: Count = 64
    depth: Count = 2
    activation: Literal["relu", "tanh", "softplus", "gelu"] = "relu"
    model: OwnCode | None = None

    @model_serializer(mode="wrap")
    def _one_model(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        for key in ("model",) if self.model is None else MLP:
            dumped.pop(key, None)
        return dumped

    @property
    def label(self) -> str:
        """What the problem is called in tables and figures."""
        return self.name

    @property
    def title(self) -> str:
        """The problem and its model in a few words."""
        if self.model is None:
            return f"{self.label}, width {self.width}"
        return f"{self.label}, {self.model.label}" + "".join(f" {k}={short(v)}" for k, v in self.model.settings.items())

    @property
    def target_unit(self) -> str:
        """Of the target, or "" where it has none."""
        return ""

    def identity(self) -> dict[str, Any]:
        """What tells this configuration from others: equal identities mean equal problems."""
        return self.model_dump(mode="json") | ({"model": self.model.identity()} if self.model is not None else {})


class _Table(_Problem):
    """A table, split at random into training and test rows."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Concrete(_Table):
    """Compressive strength of concrete from its mixture and age: UCI 165, 1030 × 8."""

    name: Literal["concrete"] = "concrete"

    @property
    def target_unit(self) -> str:
        return "MPa"


class Abalone(_Table):
    """Rings of abalones, a proxy for age, from sex and measurements: UCI 1, 4177 × 8."""

    name: Literal["abalone"] = "abalone"

    @property
    def target_unit(self) -> str:
        return "rings"


class CsvTable(_Table):
    """The user's own table: a CSV file with a header line."""

    name: Literal["csv"] = "csv"
    path: Path
    target: Annotated[str, Field(coerce_numbers_to_str=True)]
    unit: str = ""
    categorical: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    digest: str = ""

    @model_validator(mode="after")
    def _remember_content(self) -> "CsvTable":
        if not self.digest:
            if not self.path.is_file():
                raise UserError(f"{self.path}: {'not a file' if self.path.exists() else 'no such file'}")
            object.__setattr__(self, "digest", digest(self.path))
        return self

    @property
    def label(self) -> str:
        return self.path.stem

    @property
    def target_unit(self) -> str:
        return self.unit

    def identity(self) -> dict[str, Any]:
        """The content of the file counts, not its place: an edited file makes new trials, a moved one does not."""
        return {key: value for key, value in super().identity().items() if key not in ("path", "unit")}


class TeacherStudent(_Problem):
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


class RotatedDigits(_Table):
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


class TwoLayer(_Problem):
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
    Concrete | Abalone | CsvTable | TeacherStudent | RotatedDigits | TwoLayer, Field(discriminator="name")
]

PROBLEMS: dict[str, type[BaseModel]] = {
    "concrete": Concrete,
    "abalone": Abalone,
    "csv": CsvTable,
    "teacher_student": TeacherStudent,
    "rotated_digits": RotatedDigits,
    "two_layer": TwoLayer,
}
