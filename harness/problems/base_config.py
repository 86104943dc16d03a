"""What every problem says of itself in a suite file."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ..frozen import Frozen, short
from ..plugins import OwnCode

__all__ = ["MLP", "BaseConfig", "Brought", "Count", "RandomSplit"]

MLP = ("width", "depth", "activation")  # what describes the built-in model

Count = Annotated[int, Field(ge=1)]


class BaseConfig(Frozen):
    """What every problem has: a name, and for its model an MLP with ``depth`` hidden layers of ``width`` units.

    Or a model of the user's own; then width, depth and activation mean nothing and are left out of every record.
    """

    NETWORK: ClassVar[tuple[str, ...]] = MLP  # the keys that describe the built-in network

    name: str
    width: Count = 64
    depth: Count = 2
    activation: Literal["relu", "tanh", "softplus", "gelu"] = "relu"
    model: OwnCode | None = None

    @model_serializer(mode="wrap")
    def _one_model(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        for key in ("model",) if self.model is None else self.NETWORK:
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
            return f"{self.label}, {self.network_title}"
        return f"{self.label}, {self.model.label}" + "".join(f" {k}={short(v)}" for k, v in self.model.settings.items())

    @property
    def network_title(self) -> str:
        """The built-in network in a few words."""
        return f"width {self.width}"

    @property
    def target_unit(self) -> str:
        """Of the target, or "" where it has none."""
        return ""

    def require(self) -> None:
        """Sees to it that the data are known which trials are told apart by.

        Raises:
            UserError: When the suite was read, they were not there.
        """

    def without_network(self) -> Self:
        """The same data with the built-in network at its defaults: equal for problems that differ in it alone."""
        fields = type(self).model_fields
        return self.model_copy(update={key: fields[key].default for key in self.NETWORK})

    def identity(self) -> dict[str, Any]:
        """What tells this configuration from others: equal identities mean equal problems."""
        return self.model_dump(mode="json") | ({"model": self.model.identity()} if self.model is not None else {})


class RandomSplit(BaseConfig):
    """Samples that are split at random, by the seed, into a training and a test set."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Brought(BaseConfig):
    """Data of the user's own. Their content tells trials apart, not their place.

    Attributes:
        digest: Of the content; found when the suite is read.
    """

    digest: str = ""

    @model_validator(mode="after")
    def _remember_content(self) -> Self:
        if not self.digest:
            object.__setattr__(self, "digest", self.content_when_read())
        return self

    def content(self) -> str:
        """A digest of the data.

        Raises:
            UserError: They are not there.
        """
        raise NotImplementedError

    def content_when_read(self) -> str:
        """The same, when the suite is read; "" where that may be without the data."""
        return self.content()

    def require(self) -> None:
        if not self.digest:
            self.content()

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().identity().items() if key != "path"}
