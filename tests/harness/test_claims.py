"""Verdicts: what is true is reproduced, and what is false, weak, noisy, moved or too good is not."""

import functools
import json
import math
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tables import tables, tables_of_markdown

import ggn_core.jacobian
import ggn_core.optimizer
from harness.analysis.claims.report import write_report
from harness.claims import check as check_module
from harness.claims.check import CheckedClaim, check
from harness.claims.claim import Accepted, Part
from harness.claims.claim_file import CLAIMS, fingerprint, load_claims, suites_of
from harness.claims.commands import exit_code
from harness.claims.estimands import Estimate
from harness.claims.registry import Registration, Registry, trouble
from harness.claims.saved import Saved, save
from harness.claims.verdict import Verdict, combined, judge
from harness.errors import UserError
from harness.methods import AdamSettings, GgnSettings
from harness.sweep import Obtain
from harness.theory import measure_theory
from harness.theory_suite import TheorySuite
from harness.training_suite import TrainingSuite
from harness.trial import (
    AnyTrial,
    Curve,
    Outcome,
    StepCosts,
    StepCostTrial,
    TheoryTrial,
    TrainingTrial,
    TrialResult,
)

YES, NO, PARTIAL = Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.PARTIAL
OPEN, NEVER = Verdict.INCONCLUSIVE, Verdict.NOT_ATTEMPTED


def _part(**changes: object) -> Part:
    settings: dict[str, object] = {
        "part": "a ratio",
        "suite": "quickstart",
        "estimand": {"name": "target_ratio", "problem": "concrete", "rival": "sgd", "axis": "epoch"},
        "comparator": "SGD",
        "accept": {"at_most": 0.5},
        "margin": "half",
        "source": "derived",
        "plausible": {"at_least": 0.01},
    }
    return Part.model_validate(settings | changes)


@pytest.mark.parametrize(
    ("estimate", "verdict", "word"),
    [
        (Estimate(0.3, 0.2, 0.4, 10), YES, "inside"),
        (Estimate(0.7, 0.6, 0.9, 10), NO, "outside"),
        (Estimate(0.5, 0.4, 0.6, 10), OPEN, "crosses"),
        (Estimate(0.3, 0.2, math.inf, 10), OPEN, "crosses"),
        (Estimate(math.inf, math.inf, math.inf, 10), NO, "outside"),
        (Estimate(0.3, 0.2, 0.4, 9), OPEN, "underpowered: 9 of 10"),
        (Estimate(0.3, 0.2, 0.4, 10, obstacle="noisy machine: …"), OPEN, "noisy"),
        (Estimate(0.002, 0.001, 0.003, 10), OPEN, "too good to be true"),
        (Estimate(math.nan, math.nan, math.nan, 10), OPEN, "no number"),
        (Estimate(math.nan, math.nan, math.nan, 0, absent="no CUDA device"), NEVER, "no CUDA"),
    ],
)
def test_an_estimate_becomes_a_verdict(estimate: Estimate, verdict: Verdict, word: str) -> None:
    judged = judge(_part(), estimate)
    assert judged.verdict is verdict
    assert word in judged.reason


def test_a_band_has_two_sides() -> None:
    part = _part(accept={"at_least": 0.9, "at_most": 1.1}, plausible=None)
    assert judge(part, Estimate(0.5, 0.4, 0.6, 10)).verdict is NO
    assert judge(part, Estimate(0.9, 0.85, 0.95, 10)).verdict is OPEN
    assert judge(part, Estimate(1.0, 0.95, 1.05, 10)).verdict is YES
    assert judge(part, Estimate(1.4, 1.2, 1.6, 10)).verdict is NO


def test_a_fit_needs_sizes_and_span() -> None:
    part = _part(least={"samples": 10, "sizes": 3, "span": 16})
    assert judge(part, Estimate(0.3, 0.2, 0.4, 10, (64, 128))).verdict is OPEN
    assert "span 8×" in judge(part, Estimate(0.3, 0.2, 0.4, 10, (64, 128, 512))).reason
    assert judge(part, Estimate(0.3, 0.2, 0.4, 10, (64, 128, 1024))).verdict is YES


@pytest.mark.parametrize(
    ("verdicts", "proxy", "expected"),
    [
        ([YES, YES], False, YES),
        ([YES, YES], True, PARTIAL),
        ([YES, NO], False, PARTIAL),
        ([NO, NO], True, NO),
        ([YES, OPEN], False, OPEN),
        ([YES, OPEN], True, PARTIAL),  # whatever the open one is, on a proxy it is partial
        ([NO, OPEN], False, OPEN),
        ([YES, NO, OPEN], False, PARTIAL),
        ([OPEN, OPEN], True, OPEN),
        ([YES, NEVER], False, PARTIAL),
        ([NEVER, NEVER], False, NEVER),
        ([NO, NEVER], False, NO),
    ],
)
def test_parts_make_a_whole(verdicts: list[Verdict], proxy: bool, expected: Verdict) -> None:
    assert combined(verdicts, proxy) is expected


# Whole claims, on samples whose truth is known.


def _training(epochs: dict[str, int], jitter: float = 0.02, error: float = 5.0) -> Obtain:
    """Each method meets every target after so many epochs; an epoch takes 0.1 s, give or take the jitter."""

    def obtain(trial: AnyTrial, role: str) -> TrialResult | None:
        assert isinstance(trial, TrainingTrial)
        draw = random.Random(trial.id)
        needed = epochs[trial.method.name] + draw.choice([-1, 0, 0, 1])
        pace = 0.1 * (1 + jitter * draw.uniform(-1, 1))
        passed = range(trial.budget.epochs + 1)
        curve = Curve(
            step=list(passed),
            samples=list(passed),
            epoch=[float(epoch) for epoch in passed],
            seconds=[pace * epoch for epoch in passed],
            train_loss=[0.01 if epoch >= needed else 1.0 for epoch in passed],
            test_rmse=[error * (1 + 0.1 * (trial.method.name != "ggn") * (epoch > 9)) for epoch in passed],
        )
        return TrialResult(trial=trial, outcome=Outcome.COMPLETED, curve=curve, started=100.0)

    return obtain


def _steps(factor: float, bias: float = 1.0) -> Obtain:
    """GGN's step takes ``factor`` times SGD's; a second copy of it ``bias`` times the first."""

    def obtain(trial: AnyTrial, role: str) -> TrialResult | None:
        assert isinstance(trial, StepCostTrial)
        draw = random.Random(trial.id)

        def around(seconds: float) -> list[float]:
            return [seconds * (1 + 0.01 * draw.uniform(-1, 1)) for _ in range(40)]

        costs = StepCosts(
            step=[around(factor), around(1), around(1.2)], again=around(factor * bias), gradient=around(0.8),
            memory_mib=[None] * 3,
        )  # fmt: skip
        return TrialResult(trial=trial, outcome=Outcome.COMPLETED, costs=costs, started=100.0)

    return obtain


def _checked(name: str, obtain: Obtain, registered_as: str = "") -> CheckedClaim:
    (claim,) = load_claims([name])
    mark = registered_as or fingerprint(claim, suites_of([claim], full=False))
    (checked,) = check([claim], False, obtain, [Registration(claim=name, full=False, fingerprint=mark, time=1.0)])
    return checked


def _only_seeds(obtain: Obtain, below: int) -> Obtain:
    return lambda trial, role: obtain(trial, role) if not 10 > trial.seed >= below else None


FASTER = {"ggn": 4, "sgd": 18, "adam": 16}
EQUAL = {"ggn": 18, "sgd": 18, "adam": 18}


def test_what_is_true_on_a_proxy_is_partial() -> None:
    checked = _checked("faster-than-sgd", _training(FASTER))
    assert checked.verdict is PARTIAL
    assert all(part.verdict.verdict is YES for part in checked.parts)
    assert "stand-in" in checked.reason
    assert "in its 4 cells" in checked.parts[0].verdict.reason


def test_what_is_false_is_not_reproduced() -> None:
    assert _checked("faster-than-sgd", _training(EQUAL)).verdict is NO
    assert _checked("minor-overhead", _steps(factor=5.0)).verdict is NO


def test_few_seeds_decide_nothing() -> None:
    checked = _checked("faster-than-sgd", _only_seeds(_training(FASTER), below=4))
    assert checked.verdict is OPEN
    assert "underpowered: 4 of 10" in checked.reason


def test_a_noisy_clock_decides_nothing_about_seconds() -> None:
    checked = _checked("faster-than-sgd", _training(FASTER, jitter=0.6))
    by_axis = {"seconds": OPEN, "epoch": YES}
    for part in checked.parts:
        assert part.verdict.verdict is by_axis[part.part.estimand.model_dump()["axis"]]
    assert "noisy machine" in checked.parts[3].verdict.reason


def test_a_noisy_machine_decides_nothing_about_steps() -> None:
    quiet, noisy = _checked("minor-overhead", _steps(1.5)), _checked("minor-overhead", _steps(1.5, bias=1.3))
    assert [part.verdict.verdict for part in quiet.parts] == [YES, YES, YES, NEVER, YES]
    assert quiet.verdict is PARTIAL  # no GPU was there
    assert noisy.verdict is OPEN
    assert "noisy machine" in noisy.reason


def test_a_moved_tolerance_is_noticed() -> None:
    assert "has changed since the run" in _checked("faster-than-sgd", _training(FASTER), "0" * 16).reason
    assert _checked("faster-than-sgd", _training(FASTER), "0" * 16).verdict is OPEN


def test_results_too_good_to_be_true_are_flagged() -> None:
    checked = _checked("minor-overhead", _steps(factor=0.3))
    assert checked.verdict is OPEN
    assert "too good to be true" in checked.reason


def test_misses_count_against_whoever_misses() -> None:
    def missing(method: str) -> Obtain:
        epochs = FASTER | {method: 1000}
        return _training(epochs)

    ours = _checked("faster-than-sgd", missing("ggn"))
    assert ours.parts[0].estimate.value == math.inf
    assert ours.verdict is NO
    theirs = _checked("faster-than-sgd", missing("sgd"))
    assert theirs.parts[0].estimate.value == pytest.approx(4 / 40, rel=0.3)  # the rival took at least its 40 epochs
    assert theirs.verdict is PARTIAL


def test_better_performance_reads_the_end_of_the_training() -> None:
    checked = _checked("better-performance", _training(FASTER))
    assert checked.parts[0].estimate.value == pytest.approx(1 / 1.1)
    assert checked.parts[3].estimate.value == pytest.approx(1)  # the lowest along the training is the same
    assert checked.verdict is PARTIAL


# Real steps of the real optimizer, and what a planted defect does to the verdicts.


@pytest.fixture
def small_theory(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], CheckedClaim]:
    """Measures a theory claim on the softplus network with three seeds."""
    suite = TheorySuite.model_validate(
        {
            "suite": "theory",
            "problem": tuple({"name": "two_layer", "width": 2**k} for k in range(7, 12)),
            "batch_size": (5,), "dtype": ("float64",), "threads": (1,), "seeds": 3, "starts": (1.0, 0.1),
            "methods": ({"name": "sgd", "lr": 4.0, "momentum": 0.0},), "steps": 5, "epochs": 16,
        }
    )  # fmt: skip
    monkeypatch.setattr(check_module, "suites_of", lambda claims, full: {"theory": suite})

    def measured(name: str) -> CheckedClaim:
        (claim,) = load_claims([name])
        parts = [
            part.model_copy(update={"least": part.least.model_copy(update={"samples": 3})})
            for part in claim.parts
            if part.decides and part.estimand.model_dump()["activation"] == "softplus"
        ]
        claim = claim.model_copy(update={"parts": tuple(parts)})
        mark = fingerprint(claim, {"theory": suite})
        registered = [Registration(claim=name, full=False, fingerprint=mark, time=1.0)]

        def obtain(trial: AnyTrial, role: str) -> TrialResult:
            assert isinstance(trial, TheoryTrial)
            return measure_theory(trial)

        return check([claim], False, obtain, registered)[0]

    return measured


THEORY = ["ntk-link", "quadratic-convergence", "mini-batch-convergence"]


def test_theory_is_reproduced(small_theory: Callable[[str], CheckedClaim], monkeypatch: pytest.MonkeyPatch) -> None:
    once = functools.cache(measure_theory)  # the three claims rest on the same trials
    monkeypatch.setattr(sys.modules[__name__], "measure_theory", once)
    assert [small_theory(name).verdict for name in THEORY] == [YES] * 3


def test_damping_applied_twice_turns_a_verdict(
    small_theory: Callable[[str], CheckedClaim], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ggn_core.optimizer.GGN.__init__

    def damped_twice(self: object, model: object, lr: float = 1.0, damping: float = 0.3, **others: Any) -> None:
        honest(self, model, lr=lr, damping=2 * damping, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(ggn_core.optimizer.GGN, "__init__", damped_twice)
    assert small_theory("ntk-link").verdict is NO


def test_a_gram_off_by_one_percent_turns_a_verdict(
    small_theory: Callable[[str], CheckedClaim], monkeypatch: pytest.MonkeyPatch
) -> None:
    jacobian = ggn_core.jacobian.Jacobian
    honest = jacobian.lower_gram
    monkeypatch.setattr(jacobian, "lower_gram", lambda self, workspace: 1.01 * honest(self, workspace))
    checked = small_theory("quadratic-convergence")
    assert checked.parts[0].verdict.verdict is NO  # the order falls towards 1
    assert checked.verdict is not YES


# Files, registration, saved results.


def test_the_shipped_claims_are_whole() -> None:
    claims = load_claims()
    assert [claim.number for claim in claims] == list(range(1, 8))
    for full in (False, True):
        suites = suites_of(claims, full)
        for claim in claims:
            fingerprint(claim, suites)
    long, short = suites_of(claims, True), suites_of(claims, False)
    assert all(long[name].size() > short[name].size() for name in short)


ADAM_TWICE = (AdamSettings(), AdamSettings())  # in place of SGD and Adam: only the name tells them apart


def test_what_only_the_suites_page_shows_makes_no_other_claim() -> None:
    claims = load_claims(["faster-than-sgd", "minor-overhead"])
    suites = suites_of(claims, full=False)
    quickstart, step_cost = suites["quickstart"], suites["step_cost"]
    assert isinstance(quickstart, TrainingSuite)
    assert quickstart.tuning is not None
    tuning = quickstart.tuning.model_copy(update={"defaults": True})
    shown = suites | {
        "quickstart": quickstart.model_copy(update={"tuning": tuning}),
        "step_cost": step_cost.model_copy(update={"margin": 3.0}),
    }
    assert [fingerprint(claim, shown) for claim in claims] == [fingerprint(claim, suites) for claim in claims]


def test_a_fingerprint_covers_margin_target_and_names(tmp_path: Path) -> None:
    (claim,) = load_claims(["faster-than-sgd"])
    suites = suites_of([claim], full=False)
    mark = fingerprint(claim, suites)
    part = claim.parts[0].model_copy(update={"accept": Accepted(at_most=0.6)})
    quickstart = suites["quickstart"]
    for other in (
        (claim.model_copy(update={"parts": (part, *claim.parts[1:])}), suites),
        (claim, suites | {"quickstart": quickstart.model_copy(update={"target": 0.06})}),
        (claim, suites | {"quickstart": quickstart.with_parts({"methods": quickstart.methods[:2]})}),
        (claim, suites | {"quickstart": quickstart.model_copy(update={"methods": (GgnSettings(), *ADAM_TWICE)})}),
    ):
        assert fingerprint(*other) != mark


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("source: stated", "source: rumoured", "source"),
        ("suite: theory", "suite: theroy", "did you mean 'theory'"),
        ("name: gap_exponent", "name: gap", "gap_exponent"),
        ("accept: {at_most: -0.4}", "accept: {}", "at_least, at_most, or both"),
        ("claim: ntk-link", "claim: ntk", "file's name"),
        ("figure: gap", "figure: gap\nfigure: gap", "stands twice"),
        ("figure: gap", "figure: gap\ncolour: red", "colour"),
    ],
)
def test_mistakes_in_a_claim_file_are_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (CLAIMS / "ntk-link.yaml").read_text()
    (tmp_path / "ntk-link.yaml").write_text(text.replace(old, new))
    with pytest.raises(UserError) as error:
        load_claims(folder=tmp_path)
    assert "ntk-link.yaml" in str(error.value)
    assert words in str(error.value)


def test_an_unknown_claim_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'ntk-link'"):
        load_claims(["nkt-link"])


def test_registrations_guard_the_evidence(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.add({"a": "one"}, full=False)
    registry.add({"a": "one"}, full=False)
    assert len(registry.read()) == 1
    assert trouble("a", False, "one", registry.read(), [0.0]) == ""
    assert "not registered" in trouble("a", True, "one", registry.read(), [0.0])
    assert "has changed since" in trouble("a", False, "two", registry.read(), [0.0])
    registry.add({"a": "two"}, full=False)
    assert "after some of its evidence" in trouble("a", False, "two", registry.read(), [0.0])
    assert trouble("a", False, "two", registry.read(), [registry.read()[-1].time + 1]) == ""


def test_saved_results_give_the_same_verdicts_and_tell_a_difference(tmp_path: Path) -> None:
    (claim,) = load_claims(["faster-than-sgd"])
    mark = fingerprint(claim, suites_of([claim], full=False))
    registered = [Registration(claim=claim.claim, full=False, fingerprint=mark, time=1.0)]
    obtain = _training(FASTER)
    published = check([claim], False, obtain, registered)
    save(tmp_path, False, "2026-01-01T00:00:00+00:00", published, registered, obtain)
    saved = Saved(tmp_path)
    again = check([claim], saved.manifest.full, saved.obtain, saved.manifest.registered)
    assert [item.record() for item in again] == [item.record() for item in published] == saved.manifest.verdicts
    assert saved.differences(again) == []
    first = (tmp_path / "trials.jsonl.gz").read_bytes()
    save(tmp_path, False, "2026-01-01T00:00:00+00:00", published, registered, obtain)
    assert (tmp_path / "trials.jsonl.gz").read_bytes() == first
    other = check([claim], False, _training(EQUAL), registered)
    assert saved.differences(other) == ["faster-than-sgd: recomputed not reproduced, published partial"]
    (tmp_path / "trials.jsonl.gz").write_bytes(first[:-20])
    with pytest.raises(UserError, match="damaged"):
        Saved(tmp_path)


def test_exit_codes() -> None:
    item = _checked("ntk-link", lambda trial, role: None)

    def codes(*verdicts: Verdict) -> int:
        return exit_code([_replaced(item, verdict) for verdict in verdicts])

    assert codes(YES, YES) == 0
    assert codes(YES, OPEN) == 3
    assert codes(OPEN, NO) == codes(YES, PARTIAL) == codes(YES, NEVER) == 1


def _replaced(item: CheckedClaim, verdict: Verdict) -> CheckedClaim:
    return CheckedClaim(item.claim, item.full, item.fingerprint, verdict, item.reason, item.parts, item.studies)


def test_the_page_says_verdict_number_and_reason(tmp_path: Path) -> None:
    items = [_checked("faster-than-sgd", _training(FASTER)), _checked("minor-overhead", _steps(1.5))]
    page = write_report(items, tmp_path / "claims", "sqlite:///x", "ggn claims check").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    for item in items:
        assert item.claim.statement in page
        assert item.reason.split(",")[0] in page
    assert page.count("reproduced</span>") == sum(
        part.part.decides and part.verdict.verdict is YES for item in items for part in item.parts
    )
    json.dumps([item.record() for item in items], allow_nan=False)
    text = write_report(items, tmp_path / "claims", "sqlite:///x", "ggn claims check", "md").read_text()
    assert tables_of_markdown(text) == tables(page)
    assert len(tables(page)) == 3
    for item in items:
        assert f": {item.verdict}\n" in text
    drawn = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(drawn) == 2
    assert all((tmp_path / "claims" / name).is_file() for name in drawn)


def test_the_summary_shows_what_keeps_the_verdict_down(tmp_path: Path) -> None:
    wide, narrow = _steps(1.5), _steps(5.0)

    def obtain(trial: AnyTrial, role: str) -> TrialResult | None:
        return (narrow if trial.problem.width == 64 else wide)(trial, role)

    checked = _checked("minor-overhead", obtain)
    assert checked.verdict is PARTIAL
    first, *_ = tables(write_report([checked], tmp_path / "claims", "sqlite:///x", "ggn claims check").read_text())
    assert "step over SGD's, width 64, CPU" in first[1]
    assert any(cell.startswith(("5.0", "4.9")) for cell in first[1])
