"""What the harness adds to a trial: a process, its limits, the result's way back."""

import shutil
import tempfile
from pathlib import Path

from harness.engine import LocalEngine
from harness.methods import SgdSettings
from harness.problems.configs import TeacherStudent
from harness.store import Store
from harness.suite import Limits
from harness.trial import Budget, Outcome, TrainingTrial


class Trial:
    """A trial whose training is as good as nothing: four samples, one epoch, width 1."""

    def setup(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ggn-benchmark-"))
        self.engine = LocalEngine(Store(self.folder), Limits(seconds=60))
        problem = TeacherStudent(width=1, depth=1, samples=4, test_samples=2, teacher_width=1, teacher_depth=1)
        self.trial = TrainingTrial(
            problem=problem, method=SgdSettings(), batch_size=4, threads=1, seed=0, budget=Budget(epochs=1)
        )
        self.time_trial()  # starts the server that trials are forked from

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def time_trial(self) -> None:
        result = self.engine.run(self.trial)
        if result.outcome is not Outcome.COMPLETED:
            raise RuntimeError(result.reason)
