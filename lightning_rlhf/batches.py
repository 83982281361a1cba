"""What travels from loaders to steps: named tuples of tensors, a shape per field.

Ids and counts are int64 and masks bool, True = keep: under true half precision Lightning casts every floating-point
tensor of a batch. `B` rows, `T` tokens, `P` prompt tokens, `R` response tokens, `K` candidates.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

__all__ = [
    "DemonstrationBatch",
    "MinibatchIndices",
    "Prefixes",
    "PromptBatch",
    "PromptDetails",
    "RankingBatch",
    "Rollout",
    "SharedPrefixBatch",
    "TokenBatch",
    "float_bits",
]


class Prefixes(NamedTuple):
    """Which rows begin alike, and how far."""

    lengths: Int64[Tensor, " rows"]
    """Tokens that a row shares with the others of its prefix; fewer than it has."""
    of_row: Int64[Tensor, " rows"]
    """Number of a row's prefix, ascending from 0 without gaps."""


class TokenBatch(NamedTuple):
    """Rows of tokens as a model takes them.

    `segment_ids` numbers the documents of a packed row from 0; None: one document per row. `position_ids` restart in
    each document. What rows share by `prefixes` a model may pass once: nothing is read within it. `right_padded`
    says that every row has its real tokens first: causal attention does not see what follows them.
    """

    input_ids: Int64[Tensor, "B T"]
    attention_mask: Bool[Tensor, "B T"]
    position_ids: Int64[Tensor, "B T"]
    segment_ids: Int64[Tensor, "B T"] | None = None
    prefixes: Prefixes | None = None
    right_padded: bool = False

    def real_tokens_first(self) -> Int64[Tensor, "B T"]:
        """The columns of each row, those of its real tokens first, in their order: prompts are padded on the left."""
        return (~self.attention_mask).to(torch.uint8).argsort(dim=1, stable=True)


class SharedPrefixBatch(NamedTuple):
    """Rows that go on behind a beginning which several of them share.

    `prefixes` are left-padded, `rows` hold what follows them, right-padded, with the positions of the whole row.
    """

    prefixes: TokenBatch
    rows: TokenBatch
    prefix_of_row: Int64[Tensor, " rows"]
    """Which of the prefixes stands before a row."""


def float_bits(numbers: Float[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """The bits of numbers in fp32, as integers, which travel in a batch as they are.

    >>> float_bits(torch.tensor([1000.0, 1001.5])).view(torch.float32).tolist()
    [1000.0, 1001.5]
    """
    return numbers.float().view(torch.int32)


class DemonstrationBatch(NamedTuple):
    """Demonstrations or text, right-padded or packed.

    `labels` holds the token at the same position where it is supervised and -100 elsewhere; losses shift once. The
    counts are those of the whole accumulation window over all ranks: the denominators of rule 10.
    """

    tokens: TokenBatch
    labels: Int64[Tensor, "B T"]
    num_targets: Int64[Tensor, ""]
    """Labels that a next-token loss reads (the first position of a document predicts nothing and is not counted)."""
    num_tokens: Int64[Tensor, ""]
    """All real tokens but each document's first: the denominator of the auxiliary language-model term."""


class RankingBatch(NamedTuple):
    """Prompts with up to K candidates, one forward row per real candidate, right-padded.

    The rows stand in the order in which `candidate_mask` is True, read row by row; those of a prompt share it.
    """

    tokens: TokenBatch
    last_positions: Int64[Tensor, " rows"]
    """Index of the last real token of each row: where the score is read."""
    response_lengths: Int64[Tensor, "B K"]
    """Tokens of each response in its row."""
    whole_lengths: Int64[Tensor, "B K"]
    """Tokens of each response before it was cut to the row: what statistics by length count."""
    ranks: Int64[Tensor, "B K"]
    """Dense consensus ranks of the converter's rewards, 0 = best; 0 where `candidate_mask` is False."""
    reward_bits: Int32[Tensor, "B K"]
    """The converter's rewards, whose differences are margins; 0 where `candidate_mask` is False. See `float_bits`."""
    target_bits: Int32[Tensor, "B K"]
    """What the regression loss aims at: the rows' own scores, else the rewards; 0 where `candidate_mask` is False."""
    candidate_mask: Bool[Tensor, "B K"]
    num_prompts: Int64[Tensor, ""]
    """Prompts with an ordered pair in the accumulation window over all ranks."""


class PromptDetails:
    """Text that travels beside the ids of prompts, one entry per row.

    A plain class on purpose: Lightning takes named tuples, dataclasses and containers apart to move tensors, this it
    leaves alone.
    """

    def __init__(self, texts: list[str], messages: list[tuple[Any, ...]], columns: list[dict[str, Any]]) -> None:
        self.texts = texts
        """The rendered prompts."""
        self.messages = messages
        """`records.Message` tuples."""
        self.columns = columns
        """The rows' other fields."""

    def __len__(self) -> int:
        return len(self.texts)


class PromptBatch(NamedTuple):
    """Prompts for generation, left-padded."""

    prompt_ids: Int64[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    row_ids: Int64[Tensor, " B"]
    """Position of the row in its split: the key of its random numbers."""
    details: PromptDetails


class Rollout(NamedTuple):
    """One batch of sampled responses with all that was computed on it, on the CPU.

    Response tensors are 0 (False) where `completion_mask` is False.
    """

    prompt_ids: Int64[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    response_ids: Int64[Tensor, "B R"]
    completion_mask: Bool[Tensor, "B R"]
    loss_mask: Bool[Tensor, "B R"]
    """`completion_mask` less the rows that `mask_unstopped` leaves out of the loss."""
    old_logprobs: Float[Tensor, "B R"]
    ref_logprobs: Float[Tensor, "B R"]
    old_values: Float[Tensor, "B R"]
    advantages: Float[Tensor, "B R"]
    """Whitened over the global rollout."""
    returns: Float[Tensor, "B R"]


class MinibatchIndices(NamedTuple):
    """Which rows of the rollout a training step takes, and its denominators."""

    rows: Int64[Tensor, " rows"]
    num_targets: Int64[Tensor, ""]
    """Response tokens in the loss, in the accumulation window over all ranks."""
    ptx: DemonstrationBatch | None = None
    """Pretraining rows for the PPO-ptx term; they are integers only."""
