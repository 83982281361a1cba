"""What does the policy write before it is trained?"""

from collections.abc import Iterator

from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.subject import Subject

__all__ = ["StopRate"]


class StopRate(Check):
    """Responses end by themselves, and are not empty."""

    name = "stop rate"
    stages = ("ppo",)

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        sampled, settings = subject.sampled.sampled, subject.ppo.settings
        lengths = sampled.completion_mask.sum(-1).float()
        rate, length = float(sampled.stopped.float().mean()), float(lengths.mean())
        facts = f"{rate:.0%} of {len(lengths)} sampled responses stop, mean length {length:.1f} tokens"
        fix = "Start from a model whose supervised fine-tuning used this template and learned to stop"
        longest = max((len(row["prompt_ids"]) for row in subject.sample.rows), default=0)
        positions = subject.module.max_positions
        if positions is None or longest + settings.max_response_length < positions:
            most = "" if positions is None else f", at most to {positions - longest}"
            fix += f", or raise max_response_length ({settings.max_response_length}){most}"
        fix += "."
        if settings.mask_unstopped and not rate:
            yield self.failed(f"{facts}: mask_unstopped leaves every one of them out of the loss", fix)
        elif rate < 0.2:
            yield self.warned(f"{facts}: the others are cut, and scored in mid-sentence", fix)
        elif length < 2:
            yield self.warned(
                f"{facts}: they are all but empty", "Check that the prompt does not end where a stop token belongs."
            )
        else:
            yield self.passed(facts)
