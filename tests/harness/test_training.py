"""Training trials: what the curve says, what the seeds decide, how divergence ends."""

import math

import numpy as np
import pytest
import torch
from trials import make_trial

from harness.errors import UserError
from harness.problems import Batch, make_problem
from harness.training import train
from harness.trial import Outcome, TrialResult


@pytest.mark.parametrize("method", ["ggn", "sgd", "adam"])
def test_the_curve_counts_steps_samples_epochs_and_seconds(method: str) -> None:
    result = train(make_trial(method={"name": method}))
    curve = result.curve
    assert result.outcome is Outcome.COMPLETED
    assert curve.step == [0, 3, 6, 9, 12]  # 100 // 30 = 3 batches an epoch: the rest is left out
    assert curve.samples == [0, 90, 180, 270, 360]
    assert curve.epoch == [0, 1, 2, 3, 4]
    assert curve.seconds[0] == 0
    assert all(later > earlier for earlier, later in zip(curve.seconds, curve.seconds[1:], strict=False))
    assert curve.train_loss[-1] < curve.train_loss[0]
    assert result.first_step_seconds is not None
    assert result.first_step_seconds > 0
    assert result.peak_memory_mib is not None
    assert result.peak_memory_mib > 10


def test_gradient_equivalents_are_seconds_over_the_time_of_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a gradient takes 10 ms and a step of SGD is little else, three steps an epoch are about three gradients."""
    import time

    def slow(module: object, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return honest(module, inputs)  # type: ignore[arg-type]

    honest = torch.nn.Sequential.forward
    monkeypatch.setattr(torch.nn.Sequential, "forward", slow)
    result = train(make_trial(method={"name": "sgd"}))
    assert result.gradient_seconds is not None
    assert result.gradient_seconds > 0.01
    steps_in_gradients = [found / step for found, step in zip(result.gradients[1:], result.curve.step[1:], strict=True)]
    assert steps_in_gradients == pytest.approx([1.0] * 4, rel=0.3)
    loss = result.curve.train_loss[2]
    assert result.at_target(loss, "gradients") == result.curve.seconds[2] / result.gradient_seconds
    assert result.summary(loss)["gradients_to_target"] == result.at_target(loss, "gradients")


def test_a_result_without_the_unit_has_no_gradient_equivalents() -> None:
    result = train(make_trial()).model_copy(update={"gradient_seconds": None})
    assert result.gradients == []
    assert result.at_target(1e9, "gradients") is None


def test_the_clock_stops_for_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation made slow on purpose adds to the wall time, and not to the curve."""
    import time

    from harness import course

    honest = course._errors

    def slow(*arguments: object) -> tuple[float, float]:
        time.sleep(0.1)
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(course, "_errors", slow)
    result = train(make_trial())
    assert result.wall_seconds > 0.5
    assert result.curve.seconds[-1] < 0.4


def test_the_clock_does_not_run_while_batches_are_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from harness.problems.samples import TensorSamples

    honest = TensorSamples.take

    def slow(samples: TensorSamples, indices: torch.Tensor) -> Batch:
        time.sleep(0.05)
        return honest(samples, indices)

    monkeypatch.setattr(TensorSamples, "take", slow)
    result = train(make_trial())  # 12 steps
    assert result.wall_seconds > 0.6
    assert result.curve.seconds[-1] < 0.4


def test_the_curve_is_what_an_independent_loop_gets() -> None:
    """Plain torch code, written out: SGD on the same split, weights and order gives the same losses."""
    trial = make_trial(method={"name": "sgd", "lr": 0.05, "momentum": 0.0}, dtype="float64")
    problem = make_problem(trial.problem, trial.seed, dtype="float64")
    model = problem.model()
    generator = torch.Generator().manual_seed(problem.order_seed)
    losses, errors = [], []
    for epoch in range(5):
        if epoch:
            order = torch.randperm(100, generator=generator)
            for batch in order[:90].split(30):
                loss = ((model(problem.train.all().inputs[batch]) - problem.train.all().targets[batch]) ** 2).mean()
                gradients = torch.autograd.grad(loss, list(model.parameters()))
                with torch.no_grad():
                    for p, g in zip(model.parameters(), gradients, strict=True):
                        p -= 0.05 * g
        with torch.no_grad():
            losses.append(float(((model(problem.train.all().inputs) - problem.train.all().targets) ** 2).mean()))
            error = ((model(problem.test.all().inputs) - problem.test.all().targets) ** 2).mean().sqrt()
            errors.append(float(error) * problem.target_scale)
    result = train(trial)
    assert np.allclose(result.curve.train_loss, losses, rtol=1e-9)
    assert np.allclose(result.curve.test_rmse, errors, rtol=1e-9)


def test_equal_trials_give_equal_curves_and_seeds_change_them() -> None:
    first, again, other = train(make_trial()), train(make_trial()), train(make_trial(seed=1))
    assert first.curve.train_loss == again.curve.train_loss
    assert first.curve.train_loss != other.curve.train_loss


def test_methods_that_share_a_seed_start_from_the_same_point() -> None:
    results = [train(make_trial(method={"name": name})) for name in ("ggn", "sgd", "adam")]
    assert len({result.curve.train_loss[0] for result in results}) == 1


def test_divergence_is_an_outcome() -> None:
    result = train(make_trial(method={"name": "sgd", "lr": 1e6}, budget={"epochs": 50}))
    assert result.outcome is Outcome.DIVERGED
    assert "epoch" in result.reason
    assert all(math.isfinite(loss) for loss in result.curve.train_loss)
    assert result.summary(0.1)["final_test_rmse"] is None
    assert result.summary(0.1)["epochs_to_target"] is None


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(UserError, match="batch_size 101 is larger than the training set of 100"):
        train(make_trial(batch_size=101))


def test_results_survive_json() -> None:
    result = train(make_trial())
    assert TrialResult.model_validate_json(result.model_dump_json()) == result


def test_time_to_target_reads_the_first_point_that_meets_it() -> None:
    result = train(make_trial())
    curve = result.curve.model_copy(update={"train_loss": [1.0, 0.2, 0.09, 0.3, 0.01]})
    hit = result.model_copy(update={"curve": curve})
    assert hit.at_target(0.1, "epoch") == 2
    assert hit.at_target(0.1, "seconds") == curve.seconds[2]
    missed = result.model_copy(update={"curve": curve.model_copy(update={"train_loss": [1.0, 0.5, 0.4, 0.3, 0.2]})})
    assert missed.at_target(0.1, "epoch") is None


def test_the_identity_is_the_resolved_configuration() -> None:
    assert make_trial().id == make_trial(device="cpu").id  # a default, spelled out
    changes: list[dict[str, object]] = [
        {"seed": 1},
        {"batch_size": 31},
        {"method": {"name": "ggn", "lr": 0.4}},
        {"threads": 2},
        {"budget": {"epochs": 5}},
        {"dtype": "float64"},
    ]
    assert len({make_trial(**change).id for change in changes} | {make_trial().id}) == len(changes) + 1
