"""Recurrent layers: weights that are used at every time step, in whatever kernel torch would run them."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ggn_core import GGN, explain, gram
from ggn_core.capture import named_trainable, trace
from ggn_core.evaluation import Start
from ggn_core.layout import layouts_by_proof
from ggn_core.reference import dense_gram, dense_step
from ggn_core.residuals import as_rows
from ggn_core.search import Outcome


class Recurrent(nn.Module):
    """The last output of a recurrent network, through a linear layer; inputs (n, T, 4)."""

    def __init__(self, kind: str, outputs: int = 1, **settings: object):
        super().__init__()
        self.cell = getattr(nn, kind)(4, 5, batch_first=True, **settings)
        width = (self.cell.proj_size or 5) * (1 + self.cell.bidirectional)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


NETWORKS: dict[str, tuple[str, dict[str, object]]] = {
    "RNN": ("RNN", {}),
    "GRU": ("GRU", {}),
    "LSTM": ("LSTM", {}),
    "stacked, both ways": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "without biases": ("LSTM", {"bias": False}),
    "projected": ("LSTM", {"proj_size": 3}),
}


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "settings"), NETWORKS.values(), ids=NETWORKS)
def test_one_backward_pass_an_output_serves_them(kind: str, settings: dict[str, object], dtype: torch.dtype) -> None:
    """And they give the matrix and the step that the dense Jacobian gives."""
    model = Recurrent(kind, outputs=2, **settings).to(dtype)
    x, y = torch.randn(6, 7, 4, dtype=dtype), torch.randn(6, 2, dtype=dtype)
    found = explain(model, x)
    assert found.backward_passes == 2
    assert "generic" not in {share.rule for share in found.shares}

    exact, bound = copy.deepcopy(model).double(), 1e-5 if dtype == torch.float32 else 1e-12
    expected = dense_gram(exact, x.double())
    assert float((gram(model, x) - expected).norm() / expected.norm()) < bound
    change = dense_step(exact, x.double(), y.double(), lr=0.5, damping=0.3)
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    GGN(model, lr=0.5, damping=0.3).step(lambda: model(x) - y)
    after = nn.utils.parameters_to_vector(model.parameters()).detach()
    assert float((after - before - change).norm() / change.norm()) < 10 * bound


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_that_samples_keep_apart_in_them_is_proved(kind: str) -> None:
    model = Recurrent(kind).double()  # in double precision, an LSTM comes in parts
    outputs = model(torch.randn(6, 7, 4).double())
    assert all(layouts_by_proof(outputs, trace(outputs, named_trainable(model)).uses, as_rows(outputs)))


def _in_one_kernel(model: Recurrent, x: Tensor) -> bool:
    """Whether torch's own LSTM, here and now, is one node of the graph."""
    node = model.cell(x)[0].grad_fn
    while node is not None and "Mkldnn" not in node.name():
        node = node.next_functions[0][0] if node.next_functions else None
    return node is not None


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_outside_the_step_lstms_run_as_ever() -> None:
    model, x, y = Recurrent("LSTM"), torch.randn(6, 7, 4), torch.randn(6, 1)
    assert _in_one_kernel(model, x)
    optimizer = GGN(model)
    optimizer.step(lambda: model(x) - y)
    assert _in_one_kernel(model, x)
    with pytest.raises(RuntimeError, match="Expected 4, got 3"):  # torch's own complaint
        optimizer.step(lambda: model(x[..., :3]) - y)
    assert _in_one_kernel(model, x)


def test_a_search_compares_what_the_same_operations_computed() -> None:
    """Where the parameters have not moved, the loss has not changed, to the last bit."""
    model, x, y = Recurrent("LSTM"), torch.randn(6, 7, 4), torch.randn(6, 1)
    losses: list[tuple[float, float]] = []

    def look_twice(start: Start, damping: float, step_length: float) -> Outcome:
        direction = start.direction(damping, fresh=False)
        losses.append((start.loss, start.loss_at(direction, 0.0)))
        return Outcome(direction, 1.0)

    GGN(model, search=look_twice).step(lambda: model(x) - y)
    ((first, again),) = losses
    assert first == again
