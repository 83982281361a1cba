"""A function in each library's form: what `plugins check` builds the components with, and a start for your own."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["brevity", "compute_score", "reward_func", "vowel_tokens", "vowels"]


def brevity(completions: Sequence[str], **columns: Any) -> list[float]:
    """As for TRL: shorter is better."""
    return [1 / (1 + len(completion)) for completion in completions]


def vowels(samples: Sequence[str], prompts: Sequence[str], outputs: Sequence[str], **columns: Any) -> list[float]:
    """As for trlX: how many vowels the response has."""
    return [float(sum(letter in "aeiou" for letter in output.lower())) for output in outputs]


def vowel_tokens(samples: Sequence[str], prompts: Sequence[str], outputs: Sequence[str]) -> list[list[float]]:
    """As for trlX, a score per token: here a token is a letter."""
    return [[float(letter in "aeiou") for letter in output.lower()] for output in outputs]


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, list[float]]:
    """As for OpenRLHF: whether the label stands in what follows the prompt."""
    answers = [query[len(prompt) :] for query, prompt in zip(queries, prompts, strict=True)]
    return {"rewards": [float(label in answer) for answer, label in zip(answers, labels, strict=True)]}


def compute_score(
    solution_str: str, ground_truth: str = "", data_source: str = "", extra_info: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """As for verl: whether the response ends with the ground truth."""
    return {"score": float(solution_str.strip().endswith(str(ground_truth)))}
