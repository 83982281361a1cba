"""What must hold before the first update of PPO: the policy is what sampled, and the reference."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.functional import clip_fraction, kl_k1
from lightning_rlhf.modules.invariants import tolerance
from lightning_rlhf.rollout import policy_outputs, response_rows, to_rows

__all__ = ["FrozenReference", "KLIsZero", "RatioIsOne"]

_RANDOM = (
    "Look for randomness in the model that eval mode does not turn off: dropout written as a function, router noise."
)


class RatioIsOne(Check):
    """The update's pass over the responses gives the probabilities that they were sampled with."""

    name = "ratio is 1 at step 0"
    stages = ("ppo",)

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        module, sampled = subject.ppo, subject.sampled
        logprobs = _updated_logprobs(subject)
        mask, old = sampled.sampled.completion_mask, sampled.scores.logprobs
        difference = float((logprobs - old).abs().max())
        share = float(clip_fraction(logprobs, old, mask, clip_range=module.update.clip_range))
        bound = tolerance(str(subject.run.trainer.precision))
        facts = f"largest |log ratio| {difference:.2g} (at most {bound:g}), clip fraction {share:g}"
        if not difference <= bound or share:  # nan is caught too
            yield self.failed(f"{facts} before any step", _RANDOM)
        else:
            yield self.passed(facts)


class KLIsZero(Check):
    """The policy starts at its reference."""

    name = "KL is 0 at step 0"
    stages = ("ppo",)

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        module, scores = subject.ppo, subject.sampled.scores
        kl = float(kl_k1(scores.logprobs, scores.ref_logprobs).sum(-1).mean())
        bound = tolerance(str(subject.run.trainer.precision)) * module.settings.max_response_length
        facts = f"{kl:.4f} nats per response"
        if module.has_own_reference:
            yield self.passed(f"{facts} to a reference of its own")
        elif not abs(kl) <= bound:
            yield self.failed(f"{facts}, but policy and reference are the same base", _RANDOM)
        else:
            yield self.passed(facts)


class FrozenReference(Check):
    """No step moves the reference: it is not trained, not in the optimizer, and shares no weight with what is."""

    name = "reference frozen"
    stages = ("ppo",)

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        module = subject.ppo
        reference = module.actor_critic.reference
        trained = [parameter for group in module.parameter_groups() for parameter in group["params"]]
        if reference is None:
            yield self._of_adapters(module.actor_critic, trained)
            return
        storages = {_storage(parameter) for parameter in trained}
        named = list(reference.named_parameters())
        moving = [name for name, parameter in named if parameter.requires_grad]
        shared = [name for name, parameter in named if _storage(parameter) in storages]
        if moving:
            yield self.failed(f"it has trained weights: {', '.join(moving[:3])}", "Set requires_grad_(False) on it.")
        elif shared:
            yield self.failed(
                f"it shares weights with what is trained: {', '.join(shared[:3])}",
                "Give it a copy of its own: load `reference` by its name and not as the object that is trained.",
            )
        else:
            yield self.passed(f"{len(named)} weights of its own, none of them trained")

    def _of_adapters(self, actor_critic: nn.Module, trained: list[nn.Parameter]) -> CheckResult:
        in_optimizer = {id(parameter) for parameter in trained}
        moving = [
            name
            for name, parameter in actor_critic.named_parameters()
            if "lora_" not in name
            and "value_head" not in name
            and (parameter.requires_grad or id(parameter) in in_optimizer)
        ]
        if moving:
            return self.failed(
                f"weights below the adapters are trained: {', '.join(moving[:3])}",
                "With LoRA the reference is the model without adapters: train the adapters alone.",
            )
        return self.passed("it is the model with its adapters off, and those alone are trained")


def _updated_logprobs(subject: Subject) -> Tensor:
    """Of the sampled responses as a training step takes them: in its mode, in its minibatches."""
    module, sampled = subject.ppo, subject.sampled
    mask = sampled.sampled.completion_mask
    logprobs = torch.zeros(mask.shape, dtype=torch.float32)
    for start in range(0, len(mask), module.minibatch_size):
        part = slice(start, start + module.minibatch_size)
        rows = response_rows(
            sampled.prompts.prompt_ids[part],
            sampled.prompts.prompt_mask[part],
            sampled.sampled.response_ids[part],
            mask[part],
            device=module.device,
        )
        with torch.no_grad(), subject.run.trainer.precision_plugin.forward_context():
            outputs = policy_outputs(module.actor_critic, rows, temperature=module.settings.temperature)
        logprobs[part] = to_rows(outputs.logprobs.float().cpu(), mask[part])
    return logprobs


def _storage(parameter: Tensor) -> int:
    return parameter.untyped_storage().data_ptr()
