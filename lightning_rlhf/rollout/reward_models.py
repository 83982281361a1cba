"""A trained reward model as a scorer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lightning_rlhf.batches import Prefixes, TokenBatch
from lightning_rlhf.data.template_choice import PROBES
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import ScorerError, TemplateError
from lightning_rlhf.functional import position_ids
from lightning_rlhf.models import ScalarModel, tokenizers_equal
from lightning_rlhf.plugin_system.interfaces import Segment
from lightning_rlhf.records import Message
from lightning_rlhf.rollout.responses import Responses, length_sorted_chunks
from lightning_rlhf.rollout.scoring import Scorer

__all__ = ["RewardModelScorer", "same_formatting"]

Pair = tuple[list[int], list[int]]
"""Ids of a prompt and of a response."""


class RewardModelScorer(Scorer):
    """The score that a reward model reads at the last token of a dialogue.

    With the policy's own tokenizer and template the sampled ids are scored as they are. Otherwise the response is
    decoded and the dialogue rendered with the reward model's own template. A response that did not stop gets a stop
    token either way, for this scorer only.

    Args:
        name: what its scores are logged under.
        model: the reward model, in eval mode.
        formatter: of the template and tokenizer that the reward model was trained with.
        policy_formatter: the policy's.
        batch_size: rows per pass.
        precision: context of the forward pass.
    """

    def __init__(
        self,
        name: str,
        model: ScalarModel,
        formatter: PromptFormatter,
        policy_formatter: PromptFormatter,
        *,
        batch_size: int,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__(name)
        self.model = model
        self.formatter = formatter
        self.batch_size = batch_size
        self.precision = precision
        self.shares_ids = same_formatting(formatter, policy_formatter)

    @torch.no_grad()
    def score(self, responses: Responses) -> Tensor:
        """Scores in chunks of rows of similar length."""
        pairs = self._pairs(responses)
        self._require_embedded(pairs)
        numbers = _neighbours([prompt for prompt, _ in pairs])
        scores = torch.empty(len(pairs), dtype=torch.float32)
        device = next(self.model.parameters()).device
        for chunk in length_sorted_chunks(
            [len(prompt + response) for prompt, response in pairs], self.batch_size, numbers
        ):
            tokens, last_positions = _right_padded([pairs[row] for row in chunk], device)
            with self.precision():
                scores[chunk] = self.model.scores(tokens, last_positions).float().cpu()
        for row in (~scores.isfinite()).nonzero().flatten().tolist():
            raise ScorerError(
                f"a score of reward model {self.name!r} must be a finite number, got {scores[row].item()} for "
                f"prompt {responses.prompts[row]!r}, response {responses.responses[row]!r}."
            )
        return scores

    def rows(self, responses: Responses) -> list[list[int]]:
        """The ids that the reward model sees, one list per response; the last one is where the score is read.

        Raises:
            ScorerError: a row is longer than the reward model's positions.
        """
        return [prompt + response for prompt, response in self._pairs(responses)]

    def _pairs(self, responses: Responses) -> list[Pair]:
        """Prompts and responses."""
        pairs = self._shared_pairs(responses) if self.shares_ids else self._own_pairs(responses)
        positions = getattr(getattr(self.model.backbone, "config", None), "max_position_embeddings", None)
        longest = max(len(prompt + response) for prompt, response in pairs)
        if isinstance(positions, int) and longest > positions:
            raise ScorerError(
                f"prompt and response must fit the {positions} positions of reward model {self.name!r}, got {longest} "
                "tokens. Use shorter prompts, or lower max_response_length."
            )
        return pairs

    def _require_embedded(self, pairs: Sequence[Pair]) -> None:
        """Refuses tokens that the reward model's own tokenizer has and its transformer has not."""
        table = getattr(self.model.backbone, "get_input_embeddings", lambda: None)()
        number = getattr(table, "num_embeddings", None)
        greatest = max(max(prompt + response) for prompt, response in pairs)
        if isinstance(number, int) and greatest >= number:
            raise ScorerError(
                f"the tokens of reward model {self.name!r} must be among the {number} that it embeds, got the id "
                f"{greatest}. Resize its embeddings to its tokenizer, or take the token out of both tokenizer and "
                "template."
            )

    def _shared_pairs(self, responses: Responses) -> list[Pair]:
        pairs = []
        for row in range(len(responses)):
            prompt = responses.prompt_ids[row][responses.prompt_mask[row]].tolist()
            response = responses.response_ids[row][responses.completion_mask[row]].tolist()
            if not responses.stopped[row]:
                response += self._turn_end(responses, row)
            pairs.append((prompt, response))
        return pairs

    def _own_pairs(self, responses: Responses) -> list[Pair]:
        return [
            (self.formatter.encode_prompt(messages), self.formatter.encode_response(messages, response))
            for messages, response in zip(responses.messages, responses.responses, strict=True)
        ]

    def _turn_end(self, responses: Responses, row: int) -> list[int]:
        """The stop token with which the template ends an assistant turn."""
        rendered = self.formatter.encode_response(responses.messages[row], "")
        stops = [token for token in rendered if token in self.formatter.stop_ids]
        return stops[:1] or [self.formatter.stop_ids[0]]


def same_formatting(first: PromptFormatter, second: PromptFormatter) -> bool:
    """Whether two formatters turn dialogues into the same ids, as far as a few dialogues show."""
    return (
        first.stop_ids == second.stop_ids
        and tokenizers_equal(first.tokenizer, second.tokenizer)
        # as they are bound: with the `tokenizer` template, equal tokenizers may still differ in their chat template
        and all(_rendered(first, probe) == _rendered(second, probe) for probe in PROBES)
    )


def _rendered(formatter: PromptFormatter, messages: Sequence[Message]) -> list[Segment] | str:
    try:
        return formatter.template.render(messages)
    except TemplateError as error:  # such as a template without a system turn
        return str(error)


def _neighbours(prompts: Sequence[list[int]]) -> list[int]:
    """Numbers of the prompts, the same for neighbours that are equal."""
    return list(accumulate((before != after for before, after in pairwise(prompts)), initial=0))


def _right_padded(pairs: Sequence[Pair], device: torch.device) -> tuple[TokenBatch, Tensor]:
    """Prompts with their responses, those of neighbours sharing an equal prompt, and the index of each last token."""
    rows = [prompt + response for prompt, response in pairs]
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.tensor([token for row in rows for token in row])
    numbers = _neighbours([prompt for prompt, _ in pairs])
    prefixes = None
    if numbers[-1] + 1 < len(numbers):
        shared = torch.tensor([len(prompt) for prompt, _ in pairs]).minimum(lengths - 1)
        prefixes = Prefixes(shared.to(device), torch.tensor(numbers, device=device))
    tokens = TokenBatch(
        ids.to(device), mask.to(device), position_ids(mask).to(device), prefixes=prefixes, right_padded=True
    )
    return tokens, (lengths - 1).to(device)
