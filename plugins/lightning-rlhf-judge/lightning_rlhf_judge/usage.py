"""What a judge was asked and what that cost."""

__all__ = ["Usage"]

_MILLION = 1_000_000


class Usage:
    """Counts questions and tokens of one judge.

    Args:
        prompt_price: money per million prompt tokens; None: unknown.
        verdict_price: money per million tokens of verdicts; None: unknown.
    """

    def __init__(self, prompt_price: float | None = None, verdict_price: float | None = None) -> None:
        self.prompt_price = prompt_price
        self.verdict_price = verdict_price
        self.num_requests = 0
        """Verdicts that came from the endpoint, those that could not be read included."""
        self.num_cached = 0
        """Questions that the cache answered."""
        self.num_uncounted = 0
        """Requests whose tokens the endpoint did not tell."""
        self.prompt_tokens = 0
        self.verdict_tokens = 0

    def count_request(self, reported: object) -> None:
        """Adds one verdict, with the `usage` that came with it, if any."""
        usage = reported if isinstance(reported, dict) else {}
        prompt, verdict = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self.num_requests += 1
        if isinstance(prompt, int) and isinstance(verdict, int):
            self.prompt_tokens += prompt
            self.verdict_tokens += verdict
        else:
            self.num_uncounted += 1

    def count_cached(self, number: int) -> None:
        """Adds questions that the cache answered."""
        self.num_cached += number

    @property
    def cost(self) -> float | None:
        """Money spent so far; None without prices."""
        if self.prompt_price is None and self.verdict_price is None:
            return None
        prices = (self.prompt_price or 0.0, self.verdict_price or 0.0)
        return (self.prompt_tokens * prices[0] + self.verdict_tokens * prices[1]) / _MILLION

    def __str__(self) -> str:
        """One line for a person."""
        parts = [
            f"{self.num_requests} requests",
            f"{self.num_cached} questions answered by the cache",
            f"{self.prompt_tokens} prompt tokens",
            f"{self.verdict_tokens} verdict tokens",
        ]
        if self.num_uncounted:
            parts.append(f"{self.num_uncounted} requests of unknown size")
        if self.cost is not None:
            parts.append(f"cost {self.cost:.4f}")
        return ", ".join(parts)
