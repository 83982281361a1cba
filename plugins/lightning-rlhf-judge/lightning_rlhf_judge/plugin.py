"""What this package offers, by dotted name: listing it loads no HTTP library."""

from lightning_rlhf import Component, hookimpl

__all__ = ["rlhf_reward_functions"]


@hookimpl
def rlhf_reward_functions() -> list[Component]:
    """Judges."""
    return [
        Component(
            "judge_score",
            "lightning_rlhf_judge.scoring:ScoreJudge",
            "a language model's score of the response, from an OpenAI-compatible endpoint",
        ),
        Component(
            "judge_compare",
            "lightning_rlhf_judge.comparing:ComparisonJudge",
            "a language model's verdict on the response against a baseline, from an OpenAI-compatible endpoint",
        ),
    ]
