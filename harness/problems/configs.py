"""What a suite file may say of a problem."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from ..errors import UserError
from ..frozen import Frozen
from .tables import digest

__all__ = ["PROBLEMS", "Abalone", "Concrete", "CsvTable", "ProblemConfig", "TeacherStudent"]

Count = Annotated[int, Field(ge=1)]


class _Network(Frozen):
    """The model of every problem: an MLP with ``depth`` hidden layers of ``width`` units."""

    width: Count = 64
    depth: Count = 2
    activation: Literal["relu", "tanh", "softplus", "gelu"] = "relu"

    def identity(self) -> dict[str, Any]:
        """What tells this configuration from others: equal identities mean equal problems."""
        return self.model_dump(mode="json")


class _Table(_Network):
    """A table, split at random into training and test rows."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Concrete(_Table):
    """Compressive strength of concrete from its mixture and age: UCI 165, 1030 × 8."""

    name: Literal["concrete"] = "concrete"


class Abalone(_Table):
    """Rings of abalones, a proxy for age, from sex and measurements: UCI 1, 4177 × 8."""

    name: Literal["abalone"] = "abalone"


class CsvTable(_Table):
    """The user's own table: a CSV file with a header line."""

    name: Literal["csv"] = "csv"
    path: Path
    target: str
    unit: str = ""
    categorical: tuple[str, ...] = ()
    digest: str = ""

    @model_validator(mode="after")
    def _remember_content(self) -> "CsvTable":
        if not self.digest:
            if not self.path.is_file():
                raise UserError(f"{self.path}: no such file")
            object.__setattr__(self, "digest", digest(self.path))
        return self

    def identity(self) -> dict[str, Any]:
        """The content of the file counts, not its place: an edited file makes new trials, a moved one does not."""
        return self.model_dump(mode="json", exclude={"path"})


class TeacherStudent(_Network):
    """A student network learns a random teacher network of the same activation, from Gaussian inputs."""

    name: Literal["teacher_student"] = "teacher_student"
    inputs: Count = 8
    samples: Annotated[int, Field(ge=2)] = 512
    test_samples: Annotated[int, Field(ge=1)] = 512
    teacher_width: Count = 16
    teacher_depth: Count = 1
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


ProblemConfig = Annotated[Concrete | Abalone | CsvTable | TeacherStudent, Field(discriminator="name")]

PROBLEMS: dict[str, type[BaseModel]] = {
    "concrete": Concrete,
    "abalone": Abalone,
    "csv": CsvTable,
    "teacher_student": TeacherStudent,
}
