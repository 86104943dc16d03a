"""A small training trial, the same for all tests of the harness."""

from harness.trial import TrainingTrial

__all__ = ["PROBLEM", "make_trial"]

PROBLEM: dict[str, object] = {
    "name": "teacher_student", "width": 16, "samples": 100, "test_samples": 50, "inputs": 4,
}  # fmt: skip


def make_trial(**changes: object) -> TrainingTrial:
    settings: dict[str, object] = {
        "problem": PROBLEM,
        "method": {"name": "ggn", "lr": 0.5},
        "batch_size": 30,
        "threads": 1,
        "seed": 0,
        "budget": {"epochs": 4},
    }
    return TrainingTrial.model_validate(settings | changes)
