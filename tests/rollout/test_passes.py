import pytest
import torch

from lightning_rlhf.rollout.passes import policy_outputs, reference_logprobs, response_rows, score_tokens, to_rows
from lightning_rlhf.rollout.sampling import SampledResponses, finish_responses
from lightning_rlhf.rollout.settings import RolloutRuntime


@pytest.fixture
def sampled() -> SampledResponses:
    ids = torch.randint(2, 12, (6, 5), generator=torch.Generator().manual_seed(0))
    ids[0, 2] = ids[2, 0] = ids[4, 4] = 1
    return finish_responses(ids, [1])


def test_rows_are_the_prompt_ids_and_the_response_ids_joined(prompts, sampled):
    rows = response_rows(*prompts[:2], sampled.response_ids, sampled.completion_mask)
    for row in range(6):
        joined = [
            *prompts.prompt_ids[row][prompts.prompt_mask[row]].tolist(),
            *sampled.response_ids[row][sampled.completion_mask[row]].tolist(),
        ]
        assert rows.tokens.input_ids[row][rows.tokens.attention_mask[row]].tolist() == joined
        assert rows.tokens.position_ids[row][rows.tokens.attention_mask[row]].tolist() == list(range(len(joined)))


def test_kept_positions_stand_one_before_the_token_that_they_predict(prompts, sampled):
    rows = response_rows(*prompts[:2], sampled.response_ids, sampled.completion_mask)
    following = rows.tokens.input_ids.roll(-1, dims=1)[rows.keep]
    assert torch.equal(following, rows.taken_ids)
    assert torch.equal(rows.taken_ids, sampled.response_ids[sampled.completion_mask])


def test_rows_are_trimmed_to_the_longest_of_the_batch(prompts, sampled):
    rows = response_rows(*(tensor[[0, 2]] for tensor in (*prompts[:2], *sampled[:2])))
    assert rows.tokens.input_ids.shape == (2, 3 + 3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_log_probabilities_of_a_row_are_those_it_has_alone(tiny, prompts, sampled, family):
    actor_critic = tiny.actor_critic(getattr(tiny, family)())
    with torch.no_grad():
        rows = response_rows(*prompts[:2], *sampled[:2])
        together = policy_outputs(actor_critic, rows, temperature=0.7)
        logprobs, values = (to_rows(flat, sampled.completion_mask) for flat in (together.logprobs, together.values))
        for row in range(6):
            alone = response_rows(*(tensor[[row]] for tensor in (*prompts[:2], *sampled[:2])))
            own = policy_outputs(actor_critic, alone, temperature=0.7)
            mask = sampled.completion_mask[row]
            torch.testing.assert_close(logprobs[row][mask], own.logprobs, atol=1e-5, rtol=0)
            torch.testing.assert_close(values[row][mask], own.values, atol=1e-5, rtol=0)


def test_log_probabilities_are_those_of_the_plain_model(tiny, prompts, sampled):
    model = tiny.llama()
    rows = response_rows(*prompts[:2], *sampled[:2])
    actor_critic = tiny.actor_critic(tiny.llama())
    with torch.no_grad():
        logprobs = to_rows(policy_outputs(actor_critic, rows, temperature=0.7).logprobs, sampled.completion_mask)
        for row in range(6):
            prompt = prompts.prompt_ids[row][prompts.prompt_mask[row]]
            response = sampled.response_ids[row][sampled.completion_mask[row]]
            logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0]
            expected = (logits / 0.7).log_softmax(-1)[len(prompt) - 1 : -1]
            taken = expected.gather(-1, response[:, None]).squeeze(-1)
            torch.testing.assert_close(logprobs[row, : len(response)], taken, atol=1e-5, rtol=0)


def test_the_untrained_policy_is_its_reference(tiny, prompts, sampled):
    actor_critic = tiny.actor_critic()
    rows = response_rows(*prompts[:2], *sampled[:2])
    logprobs = policy_outputs(actor_critic, rows, temperature=1.3).logprobs
    assert torch.equal(logprobs, reference_logprobs(actor_critic, rows, temperature=1.3))
    assert logprobs.requires_grad


@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_of_tokens_do_not_depend_on_the_batch_size(tiny, prompts, sampled, batch_size):
    actor_critic = tiny.actor_critic()
    whole, parts = (
        score_tokens(actor_critic, prompts, sampled, temperature=1.0, runtime=RolloutRuntime(), batch_size=size)
        for size in (6, batch_size)
    )
    for first, second in zip(whole, parts, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
        assert not first[~sampled.completion_mask].any()


def test_gradients_flow_back_from_rows():
    flat = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    table = to_rows(flat, torch.tensor([[True, False], [True, True]]))
    (table * torch.tensor([[1.0, 5.0], [2.0, 3.0]])).sum().backward()
    assert flat.grad.tolist() == [1.0, 2.0, 3.0]


@pytest.fixture
def count_tokens():
    """`count_tokens(module)`: the list of how many tokens each call of its embedding takes from here on."""

    def count(module):
        counts = []
        embedding = next(each for each in module.modules() if isinstance(each, torch.nn.Embedding))
        embedding.register_forward_hook(lambda module, args, output: counts.append(args[0].numel()))
        return counts

    return count


class TestResponsesOfOnePrompt:
    @pytest.fixture
    def repeated(self, prompts):
        """Three long prompts with three responses, two and one."""
        index = torch.tensor([2, 2, 2, 5, 5, 1])
        ids, mask = prompts.prompt_ids[index], prompts.prompt_mask[index]
        longer = torch.tensor([3, 4, 5, 6, 7, 8, 9, 10]).expand(6, 8)
        return prompts._replace(
            prompt_ids=torch.cat([ids.masked_fill(~mask, 11), longer], 1),
            prompt_mask=torch.cat([torch.ones_like(mask), torch.ones_like(longer, dtype=torch.bool)], 1),
        )

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_pass_their_prompt_once_and_are_scored_as_if_alone(self, tiny, repeated, sampled, family, count_tokens):
        actor_critic = tiny.actor_critic(getattr(tiny, family)())
        counts = count_tokens(actor_critic.policy)
        arguments = {"temperature": 0.7, "runtime": RolloutRuntime()}
        together = score_tokens(actor_critic, repeated, sampled, **arguments, batch_size=6)
        width = repeated.prompt_ids.shape[1]
        # three prompts less their last tokens, and what follows them
        assert counts == [3 * (width - 1), 6 * (1 + 5)]
        alone = score_tokens(actor_critic, repeated, sampled, **arguments, batch_size=1)
        for name, found, expected in zip(together._fields, together, alone, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0, msg=name)

    def test_stay_together_where_rows_are_cut_into_batches(self, tiny, repeated, sampled, count_tokens):
        actor_critic = tiny.actor_critic()
        counts = count_tokens(actor_critic.policy)
        score_tokens(actor_critic, repeated, sampled, temperature=1.0, runtime=RolloutRuntime(), batch_size=3)
        width = repeated.prompt_ids.shape[1]
        assert counts[:2] == [width - 1, 3 * (1 + 5)]

    def test_share_nothing_of_a_prompt_of_one_token(self, tiny, prompts, sampled):
        ids = torch.full((6, 1), 3)
        rows = response_rows(ids, ids.bool(), *sampled[:2])
        actor_critic = tiny.actor_critic()
        expected = policy_outputs(
            actor_critic, rows._replace(tokens=rows.tokens._replace(prefixes=None)), temperature=1.0
        )
        assert torch.equal(policy_outputs(actor_critic, rows, temperature=1.0).logprobs, expected.logprobs)
