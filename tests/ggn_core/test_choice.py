"""The choice between several ways to the same: all are exact, the faster one is taken, and it is measured once."""

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from cases import CASES, Case
from compared import flat, relative_error
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from ggn_core import GGN, SettingError, choice, explain
from ggn_core.choice import Choice, Chooser
from ggn_core.reference import dense_step
from ggn_core.rules.convolution import ConvolutionUse

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

BY_WAY = [case for case in CASES if any(word in case.name for word in ("conv", "frames", "sequence", "embedding"))]


class Clock:
    """Says how long each way takes by the name of the way, and counts how often it is asked."""

    def __init__(self, times: dict[str, float]):
        self.times, self.asked = times, 0

    def fastest(self, ways: dict[str, Callable[[], object]], device: torch.device) -> Choice | None:
        """``choice._fastest`` by this clock."""
        names = {run: name for name, run in ways.items()}

        def seconds(run: Callable[[], object], _: torch.device) -> float:
            self.asked += 1
            return self.times[names[run]]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choice, "seconds", seconds)
            return self.measure(ways, device)

    measure = staticmethod(choice._fastest)


@pytest.fixture(autouse=True)
def _nothing_is_measured_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(choice, "_measured", {})


def _clock(monkeypatch: pytest.MonkeyPatch, *fastest: str) -> Clock:
    times = dict.fromkeys(("folded", "unfolded", "ghost", "materialized"), 0.95e-3)
    clock = Clock(times | dict.fromkeys(fastest, 0.41e-3))
    monkeypatch.setattr(choice, "_fastest", clock.fastest)
    return clock


def _convolution() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 1)).double()
    return model, torch.randn(4, 2, 5, 5).double(), torch.randn(4, 1).double()


def _steps_like_the_dense_one(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> bool:
    before, change = flat(model), dense_step(model, x, y, lr=0.7, damping=0.3)
    GGN(model, lr=0.7, damping=0.3, **settings).step(lambda: model(x) - y)
    return relative_error(flat(model) - before, change) < 1e-10


@pytest.mark.parametrize("memory", ["kept", "formed twice", "formed in parts"])
@pytest.mark.parametrize("fastest", [("folded", "ghost"), ("unfolded", "materialized")])
@pytest.mark.parametrize("case", BY_WAY, ids=lambda case: case.name)
def test_every_way_is_exact(case: Case, fastest: tuple[str, ...], memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _clock(monkeypatch, *fastest)
    if memory == "formed in parts":  # one channel at a time, and of one or two samples
        monkeypatch.setattr("ggn_core.rules.recomputed.BYTES_AT_ONCE", 500)
        monkeypatch.setattr("ggn_core.rules.convolution.BYTES_AT_ONCE", 5000)
    inputs = case.inputs(5)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    model = case.model(2).double()
    targets = torch.randn_like(model(inputs).detach())
    row_memory = 2.0 if memory == "kept" else 0.0
    assert _steps_like_the_dense_one(model, inputs, targets, choose="measured", row_memory_gib=row_memory)
    convolutional = any(isinstance(part, nn.modules.conv._ConvNd) for part in model.modules())
    assert clock.asked > 0 or not convolutional


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(0, 1)),
        nn.Conv2d(4, 6, (3, 2), padding=(2, 0), dilation=(1, 2), groups=2),
        nn.ConvTranspose2d(2, 3, (2, 3), stride=(1, 2), padding=(1, 0)),
        nn.ConvTranspose2d(4, 2, 2, dilation=3, output_padding=2, groups=2),  # reaches where no input does
    ],
    ids=str,
)
def test_unfolding_knows_every_setting(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    _clock(monkeypatch, "unfolded")
    x = torch.randn(3, layer.in_channels, 5, 6).double()
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    y = torch.randn_like(model(x).detach())
    assert _steps_like_the_dense_one(model, x, y, choose="measured")


def test_what_is_measured_for_real_is_exact() -> None:
    assert _steps_like_the_dense_one(*_convolution(), choose="measured")
    (found,) = choice._measured.values()
    assert found.way in ("folded", "unfolded")
    assert " ms against " in found.why


def test_a_shape_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, (model, x, y) = _clock(monkeypatch), _convolution()
    for optimizer in [GGN(model, choose="measured"), GGN(model, choose="measured")]:
        for _ in range(2):
            optimizer.step(lambda: model(x) - y)
    assert clock.asked == 2 * choice.REPEATS
    optimizer.step(lambda: model(x[:3]) - y[:3])
    assert clock.asked == 4 * choice.REPEATS
    twin = copy.deepcopy(model).float()
    GGN(twin, choose="measured").step(lambda: twin(x.float()) - y.float())
    assert clock.asked == 6 * choice.REPEATS


@pytest.mark.parametrize(
    ("fastest", "why"),
    [
        ("folded", "folded, measured: 0.41 ms against 0.95 ms unfolded"),
        ("unfolded", "unfolded, measured: 0.41 ms against 0.95 ms folded"),
    ],
)
def test_the_faster_way_is_taken_and_told(fastest: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _clock(monkeypatch, fastest)
    model, x, _ = _convolution()
    shares = {share.parameters: share for share in explain(model, x, choose="measured").shares}
    assert shares[("0.weight", "0.bias")].why.endswith(why)


@pytest.mark.parametrize("fastest", ["ghost", "materialized"])
def test_the_faster_gram_of_a_sequence_is_taken_and_told(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _clock(monkeypatch, fastest)
    (share,) = explain(nn.Linear(3, 2), torch.randn(4, 5, 3), choose="measured").shares
    assert share.rule == fastest
    assert share.why.startswith("measured: 0.41 ms against 0.95 ms")


@pytest.mark.parametrize(
    ("convolution", "outputs", "way", "entries", "windows"),
    [
        (nn.Conv2d(2, 17, 3), 1, "folded", 17, 9),
        (nn.Conv2d(2, 18, 3), 1, "unfolded", 18, 9),
        (nn.Conv2d(2, 6, 3), 3, "unfolded", 18, 9),  # outputs share windows
        (nn.Conv2d(2, 18, 3, groups=2), 1, "folded", 9, 9),
        (nn.ConvTranspose2d(2, 6, 3), 9, "folded", 2, 25),  # windows of cotangents, of which each output has its own
    ],
)
def test_the_count_decides_and_is_told(
    convolution: nn.Module, outputs: int, way: str, entries: int, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "seconds", lambda *_: pytest.fail("measured"))
    model = nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.LazyLinear(outputs))
    x = torch.randn(4, 2, 5, 5)
    model(x)  # gives the last layer its shape
    why = f"{way}, for an entry of a kernel, rows have {entries} entries to copy, windows {windows}"
    assert next(s.why for s in explain(model, x).shares if "0.weight" in s.parameters).endswith(why)


def test_what_is_unfolded_serves_all_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    honest = ConvolutionUse._windows

    def watched(self: ConvolutionUse, x: Tensor, *shapes: Sequence[int]) -> Tensor:
        copied.append(x.shape)
        return honest(self, x, *shapes)

    monkeypatch.setattr(ConvolutionUse, "_windows", watched)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(54, 3)).double()
    assert _steps_like_the_dense_one(model, torch.randn(4, 2, 5, 5).double(), torch.randn(4, 3).double())
    assert copied == [(4, 2, 5, 5)]


def test_a_measurement_keeps_within_the_memory_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: dict[str, int] = {}

    def fastest(ways: dict[str, Callable[[], Tensor]], _: torch.device) -> None:
        tried.update((name, run().nbytes) for name, run in ways.items())

    monkeypatch.setattr(choice, "_fastest", fastest)
    model, x, y = _convolution()
    rows = 4 * model[0].weight.nbytes
    monkeypatch.setattr("ggn_core.rules.recomputed.BYTES_AT_ONCE", rows // 3)
    GGN(model, choose="measured").step(lambda: model(x) - y)
    assert tried == {"folded": rows // 3, "unfolded": rows // 3}


class Sizes(TorchDispatchMode):
    """The largest result of a copy or a padding: what unfolding holds besides the rows."""

    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("clone", "_unsafe_view", "copy"):
            self.largest = max(self.largest, result.nbytes)
        return result


def test_what_is_unfolded_keeps_within_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 samples of 2 channels, 9 entries of the kernel and 9 positions, 8 bytes each: 1296 bytes a sample."""
    _clock(monkeypatch, "unfolded")
    model, x, y = nn.Sequential(nn.Conv2d(2, 1, 3), nn.Flatten(), nn.Linear(9, 1)).double(), torch.randn(64, 2, 5, 5), 1
    x = x.double()
    optimizer = GGN(model, choose="measured")
    optimizer.step(lambda: model(x) - y)  # measures: under a mode it would not
    largest = []
    for limit in (2**20, 64 * 1296 // 4):
        monkeypatch.setattr("ggn_core.rules.convolution.BYTES_AT_ONCE", limit)
        with Sizes() as sizes:
            optimizer.step(lambda: model(x) - y)
        largest.append(sizes.largest)
    assert largest[0] == 64 * 1296
    assert largest[1] == largest[0] / 4


def test_a_way_that_runs_out_of_memory_is_out() -> None:
    def greedy() -> None:
        raise torch.OutOfMemoryError

    counted, device = Choice("small", "counted"), torch.device("cpu")
    assert Chooser("measured")(counted, 1, {"greedy": greedy, "small": lambda: None}, device).way == "small"
    assert Chooser("measured")(counted, 2, {"greedy": greedy}, device) is counted


def test_nothing_is_measured_while_operations_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, (model, x, y) = _clock(monkeypatch, "unfolded"), _convolution()
    optimizer = GGN(model, capturable=True, choose="measured")

    def recorded() -> list[str]:
        graph = make_fx(lambda x, y, *_: optimizer.step(lambda: model(x) - y))(x, y, *model.parameters())
        return [getattr(node.target, "__name__", "") for node in graph.graph.nodes]

    folded = recorded()
    assert clock.asked == 0
    optimizer.step(lambda: model(x) - y)
    assert clock.asked > 0
    assert recorded().count("convolution_backward.default") == folded.count("convolution_backward.default") - 1


def test_nothing_is_measured_while_a_cuda_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    capturing = True
    monkeypatch.setattr(choice, "capturing", lambda _: capturing)
    clock = _clock(monkeypatch, "unfolded")
    counted, device = Choice("folded", "counted"), torch.device("cuda")
    ways: dict[str, Callable[[], object]] = {"folded": lambda: None, "unfolded": lambda: 0}
    assert Chooser()(counted, 1, ways, device) is counted
    capturing = False
    assert Chooser()(counted, 1, ways, device).way == "unfolded"
    capturing = True
    assert Chooser()(counted, 1, ways, device).way == "unfolded"  # as measured before
    assert clock.asked == 2 * choice.REPEATS


def test_shapes_without_end_are_left_to_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _clock(monkeypatch, "unfolded")
    monkeypatch.setattr(choice, "MOST_MEASURED", 2)
    ways: dict[str, Callable[[], object]] = {"folded": lambda: None, "unfolded": lambda: 0}
    taken = [Chooser("measured")(Choice("folded", ""), key, ways, torch.device("cpu")).way for key in (1, 2, 3, 1)]
    assert taken == ["unfolded", "unfolded", "folded", "unfolded"]
    assert clock.asked == 4 * choice.REPEATS


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_automatic_is_measured_on_gpus_only() -> None:
    assert [Chooser("auto").measures(device) for device in (CPU, CUDA)] == [False, True]
    assert [Chooser("counted").measures(device) for device in (CPU, CUDA)] == [False, False]
    assert [Chooser("measured").measures(device) for device in (CPU, CUDA)] == [True, True]


@pytest.mark.usefixtures("_deterministic")
def test_automatic_is_counted_where_all_is_to_be_deterministic() -> None:
    assert not Chooser("auto").measures(CUDA)


def test_another_choice_is_refused() -> None:
    with pytest.raises(SettingError, match="choose must be 'auto', 'counted' or 'measured', got 'best'"):
        GGN(nn.Linear(2, 1), choose="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_chooses_alike(copied: Callable[[GGN], GGN], monkeypatch: pytest.MonkeyPatch) -> None:
    clock, (model, x, y) = _clock(monkeypatch), _convolution()
    optimizer = copied(GGN(model, choose="measured"))
    optimizer.step(lambda: optimizer.model(x) - y)
    assert clock.asked > 0


@pytest.mark.cuda
def test_a_gpu_is_timed_by_its_events() -> None:
    device = torch.device("cuda")
    x = torch.randn(2048, 2048, device=device)
    taken = [choice.seconds(lambda: [x @ x for _ in range(repeats)], device) for repeats in (1, 1, 100)]  # noqa: B023
    assert 0 < taken[1] < taken[2]


@pytest.mark.cuda
def test_the_choice_on_a_gpu_is_measured_and_exact() -> None:
    model, x, y = (part.cuda() for part in _convolution())
    assert _steps_like_the_dense_one(model, x, y)
    assert all("measured: " in found.why for found in choice._measured.values())
    assert len(choice._measured) == 1
