"""Do the models that give scores have something to give them with?"""

from collections.abc import Iterator, Sequence

from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import ScalarHead, ScalarModel
from lightning_rlhf.models.loading import resolve_reward_model
from lightning_rlhf.modules import PPOModule

__all__ = ["RewardHead"]


class RewardHead(Check):
    """Every reward model has a head whose weights say something."""

    name = "reward head"
    stages = ("reward", "ppo")

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One per reward model."""
        module = subject.module
        models = list(module.reward_models) if isinstance(module, PPOModule) else list(module.networks())
        for model in models:
            for head in (part for part in model.modules() if isinstance(part, ScalarHead)):
                yield self._of(head)

    def _of(self, head: ScalarHead) -> CheckResult:
        weight = head.weight.detach().float()
        fix = "Train the reward model again, or name another: its `model/` must have been written at the run's end."
        if not bool(weight.isfinite().all()):
            return self.failed("the head holds numbers that are not finite", fix)
        if not bool(weight.any()):
            return self.failed("the head is all zeros: every response would get the same score", fix)
        return self.passed(f"a head of {weight.numel()} weights, norm {float(weight.norm()):.3g}")

    def unusable(self, names: Sequence[str]) -> list[CheckResult]:
        """A FAIL for each of these reward models whose files are there and hold no head that can be used.

        Args:
            names: directories or hub ids.

        Raises:
            ModelError: a name means nothing.
        """
        results = []
        for name in map(resolve_reward_model, names):
            try:
                ScalarModel.load(name)
            except ModelError as error:
                results.append(self.failed(str(error), ""))
        return results
