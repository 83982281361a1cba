import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf.data.collation import collate_demonstrations, collate_packed, collate_prompts, collate_rankings
from lightning_rlhf.data.packing import packed
from lightning_rlhf.data.rows import DemonstrationRows, PromptRows, Tally
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.functional import next_token_loss
from lightning_rlhf.records import Demonstration, Message, Prompt


def demonstrations():
    return [
        Demonstration((Message("user", prompt), Message("assistant", response)))
        for prompt, response in [("the cat", " sat"), ("a", "bcdefg"), ("hello there", "!"), ("x", "y")]
    ]


def rows_of(formatter, max_length=99):
    tokenization = DemonstrationRows(formatter, max_length)
    return [row for record in demonstrations() for row in tokenization.rows(record, Tally())]


@pytest.fixture
def formatter(fakes):
    return PromptFormatter(fakes.MarkedTemplate(), fakes.byte_tokenizer())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=350,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).double().eval()


def logits_of(model, tokens):
    """Causal attention among real tokens of one document, written out as a mask."""
    length = tokens.input_ids.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & tokens.attention_mask[:, None, :]
    if tokens.segment_ids is not None:
        allowed = allowed & (tokens.segment_ids[:, :, None] == tokens.segment_ids[:, None, :])
    allowed = allowed | torch.eye(length, dtype=torch.bool)  # padding looks at itself, so that no row is empty
    bias = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -1e9)[:, None]
    return model(input_ids=tokens.input_ids, attention_mask=bias, position_ids=tokens.position_ids).logits


def test_labels_hold_the_supervised_tokens_and_minus_100_elsewhere(formatter):
    rows = rows_of(formatter)
    batch = collate_demonstrations(rows)
    for index, row in enumerate(rows):
        expected = [i if flag else -100 for i, flag in zip(row["input_ids"], row["supervised"], strict=True)]
        assert batch.labels[index].tolist() == expected + [-100] * (batch.labels.shape[1] - len(expected))
        assert int(batch.tokens.attention_mask[index].sum()) == len(expected)
    assert int(batch.num_targets) == int((batch.labels[:, 1:] != -100).sum())
    assert int(batch.num_tokens) == int(batch.tokens.attention_mask.sum()) - len(rows)
    assert batch.tokens.segment_ids is None


def test_position_ids_count_real_tokens_from_zero(formatter):
    tokens = collate_demonstrations(rows_of(formatter)).tokens
    for mask, positions in zip(tokens.attention_mask, tokens.position_ids, strict=True):
        assert positions[mask].tolist() == list(range(int(mask.sum())))


def test_the_batch_does_not_depend_on_the_padding_token(fakes, model):
    batches = []
    for pad in ("<pad>", "</s>", None):
        formatter = PromptFormatter(fakes.MarkedTemplate(), fakes.byte_tokenizer(pad=pad))
        batches.append(collate_demonstrations(rows_of(formatter)))
    losses = [next_token_loss(logits_of(model, batch.tokens), batch.labels) for batch in batches]
    assert losses[0] == losses[1] == losses[2]
    for batch in batches[1:]:
        assert torch.equal(batch.labels, batches[0].labels)
        assert torch.equal(batch.tokens.attention_mask, batches[0].tokens.attention_mask)
        assert int(batch.num_targets) == int(batches[0].num_targets)


def test_packed_rows_restart_positions_and_number_their_documents(formatter):
    rows = rows_of(formatter)
    (row,) = packed(rows, 999)
    batch = collate_packed([row, rows[0]])
    ends = torch.tensor([len(each["input_ids"]) for each in rows]).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        assert batch.tokens.segment_ids[0, start:end].tolist() == [number] * (end - start)
        assert batch.tokens.position_ids[0, start:end].tolist() == list(range(end - start))
        assert batch.labels[0, start] == -100
    assert batch.tokens.segment_ids[1, ends[0] :].eq(-1).all()
    assert not batch.tokens.attention_mask[1, ends[0] :].any()


def test_the_packed_loss_is_the_unpacked_one(formatter, model):
    rows = rows_of(formatter)
    plain = collate_demonstrations(rows)
    together = collate_packed(list(packed(rows, 40)))
    assert len(together.labels) < len(plain.labels)
    assert int(together.num_targets) == int(plain.num_targets)
    assert int(together.num_tokens) == int(plain.num_tokens)
    losses = [next_token_loss(logits_of(model, batch.tokens), batch.labels) for batch in (plain, together)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)


def test_packing_keeps_every_document_and_the_limit(formatter):
    rows = rows_of(formatter)
    joined = list(packed(rows, 40))
    assert [length for row in joined for length in row["lengths"]] == [len(row["input_ids"]) for row in rows]
    assert all(len(row["input_ids"]) == sum(row["lengths"]) <= 40 for row in joined)


def ranking_row(prompt, responses, ranks, candidates):
    return {
        "prompt_ids": prompt,
        "responses": responses,
        "whole_lengths": list(map(len, responses)),
        "ranks": ranks,
        "rewards": [1.0 - rank for rank in ranks],
        "targets": [5.0 - rank for rank in ranks],
        "candidates": candidates,
        "num_prompts": 1,
    }


def test_rankings_have_one_row_per_candidate_in_the_order_of_the_mask():
    batch = collate_rankings(
        [
            ranking_row([5, 6], [[7], [8, 9], [4]], [0, 1, 2], [True, True, True]),
            ranking_row([3], [[2], [], [1, 1]], [1, 9, 0], [True, False, True]),
            ranking_row([3], [[2], [2, 2]], [1, 0], [True, True]),
        ]
    )
    rows = [ids[mask].tolist() for ids, mask in zip(batch.tokens.input_ids, batch.tokens.attention_mask, strict=True)]
    assert rows == [[5, 6, 7], [5, 6, 8, 9], [5, 6, 4], [3, 2], [3, 1, 1], [3, 2], [3, 2, 2]]
    assert batch.last_positions.tolist() == [2, 3, 2, 1, 2, 1, 2]
    assert batch.candidate_mask.tolist() == [[True, True, True], [True, False, True], [True, True, False]]
    assert batch.response_lengths.tolist() == [[1, 2, 1], [1, 0, 2], [1, 2, 0]]
    assert batch.ranks.tolist() == [[0, 1, 2], [1, 0, 0], [1, 0, 0]]
    assert batch.reward_bits.view(torch.float32).tolist() == [[1, 0, -1], [0, 0, 1], [0, 1, 0]]
    assert batch.target_bits.view(torch.float32).tolist() == [[5, 4, 3], [4, 0, 5], [4, 5, 0]]
    assert int(batch.num_prompts) == 3


def test_the_last_position_is_the_last_real_token_also_when_the_padding_token_ends_a_response():
    batch = collate_rankings([ranking_row([5], [[7, 0], [8]], [0, 1], [True, True])])
    assert batch.last_positions.tolist() == [2, 1]


def test_prompts_are_padded_on_the_left_and_carry_their_text(formatter):
    prompts = [Prompt("hello there", {"label": 1}), Prompt("a")]
    rows = [row for prompt in prompts for row in PromptRows(formatter, 99).rows(prompt, Tally())]
    batch = collate_prompts(rows, [8, 3])
    for index, row in enumerate(rows):
        assert batch.prompt_ids[index][batch.prompt_mask[index]].tolist() == row["prompt_ids"]
        assert batch.prompt_mask[index, -1]
        assert batch.prompt_mask[index].int().diff().ge(0).all()
    assert batch.row_ids.tolist() == [8, 3]
    assert batch.details.texts == [formatter.render_prompt(prompt.prompt) for prompt in prompts]
    assert batch.details.messages == [prompt.prompt for prompt in prompts]
    assert batch.details.columns == [{"label": 1}, {}]


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_rounds_no_number_of_a_ranking(precision):
    row = {
        "prompt_ids": [3],
        "responses": [[4], [5]],
        "whole_lengths": [1, 1],
        "ranks": [0, 1],
        "rewards": [1 / 3, -1.0],
        "targets": [1e5, 1001.5],
        "candidates": [True, True],
        "num_prompts": 1,
    }
    batch = HalfPrecision(precision).convert_input(collate_rankings([row]))
    assert batch.reward_bits.view(torch.float32).tolist() == [[pytest.approx(1 / 3, rel=1e-7), -1.0]]
    assert batch.target_bits.view(torch.float32).tolist() == [[1e5, 1001.5]]
