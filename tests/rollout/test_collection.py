import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_rlhf.batches import PromptBatch, PromptDetails
from lightning_rlhf.functional import approx_kl, clip_fraction
from lightning_rlhf.models import LoRA
from lightning_rlhf.plugin_system.interfaces import RankingConverter
from lightning_rlhf.rollout import (
    RolloutRuntime,
    RolloutSettings,
    ScoreNormalizer,
    ScorePipeline,
    collect_rollout,
    policy_outputs,
    response_rows,
    select_rows,
    to_rows,
)
from lightning_rlhf.rollout.repetition import distinct_2
from lightning_rlhf.rollout.reward_functions import RewardFunctionScorer

SETTINGS = RolloutSettings(max_response_length=12, temperature=0.8)


def first_letters(prompts, responses, *, response_tokens, **columns):
    """A score that depends on the response: how often it says `e`, and its length."""
    return [
        response.count("e") - 0.1 * len(tokens) for response, tokens in zip(responses, response_tokens, strict=True)
    ]


@pytest.fixture
def collect(tiny, prompts):
    def call(
        actor_critic=None,
        batch=prompts,
        settings=SETTINGS,
        runtime=None,
        function=first_letters,
        kl_coef=0.1,
        batch_size=4,
        keys=None,
        iteration=0,
        **pipeline,
    ):
        scorer = RewardFunctionScorer(tiny.function_scorer(function), "letters", batch_size=batch_size)
        return collect_rollout(
            actor_critic or tiny.actor_critic(),
            batch,
            ScorePipeline([scorer], **pipeline),
            tiny.formatter(),
            settings,
            runtime or RolloutRuntime(),
            keys=keys,
            seed=3,
            iteration=iteration,
            kl_coef=kl_coef,
            batch_size=batch_size,
        )

    return call


def moved(actor_critic):
    """A policy that has left its reference, and values that are not zero."""
    with torch.no_grad():
        for parameter in [*actor_critic.policy_parameters(), *actor_critic.value_parameters()]:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return actor_critic


def picked(prompts, rows):
    details = prompts.details
    columns = (details.texts, details.messages, details.columns)
    return PromptBatch(
        *(tensor[rows] for tensor in prompts[:3]), PromptDetails(*([column[row] for row in rows] for column in columns))
    )


@pytest.mark.parametrize(
    "options", [{}, {"value_model": "shared"}, {"adapter": LoRA(rank=2)}], ids=["separate", "shared", "adapter"]
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_without_a_step_the_update_sees_the_very_log_probabilities_of_the_rollout(tiny, collect, family, options):
    actor_critic = moved(tiny.actor_critic(getattr(tiny, family)(), **options))
    rollout = collect(actor_critic).rollout
    for rows in torch.tensor([[4, 0], [1, 3], [2, 5]]):
        part = select_rows(rollout, rows)
        inputs = response_rows(*part[:4])
        outputs = policy_outputs(actor_critic.train(), inputs, temperature=SETTINGS.temperature)
        logprobs, values = (to_rows(flat, part.completion_mask) for flat in (outputs.logprobs, outputs.values))
        assert (logprobs - part.old_logprobs).abs().max() <= 1e-5
        assert (values - part.old_values).abs().max() <= 1e-5
        assert clip_fraction(logprobs, part.old_logprobs, part.loss_mask, clip_range=0.2) == 0
        assert approx_kl(logprobs, part.old_logprobs, part.loss_mask).abs() <= 1e-8
        assert logprobs.requires_grad


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_rollout_does_not_depend_on_the_batch_size(collect, batch_size):
    whole, parts = collect(batch_size=6).rollout, collect(batch_size=batch_size).rollout
    for name, first, second in zip(whole._fields, whole, parts, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0, msg=name)


def test_a_prompts_responses_do_not_depend_on_which_other_prompts_there_are(collect, prompts):
    settings = replace(SETTINGS, num_responses_per_prompt=2)
    whole = collect(settings=settings).rollout
    part = collect(batch=picked(prompts, [4, 1]), settings=settings).rollout
    for row, same in enumerate([8, 9, 2, 3]):
        mask = part.completion_mask[row]
        assert part.response_ids[row][mask].tolist() == whole.response_ids[same][whole.completion_mask[same]].tolist()


def test_iterations_and_the_responses_of_a_prompt_differ(collect):
    settings = replace(SETTINGS, num_responses_per_prompt=3)
    first, second = (collect(settings=settings, iteration=iteration).rollout.response_ids for iteration in (0, 1))
    width = min(first.shape[1], second.shape[1])
    assert not torch.equal(first[:, :width], second[:, :width])
    assert any(len({tuple(row) for row in group.tolist()}) == 3 for group in first.split(3))


def test_keys_decide_on_the_samples(collect, tiny):
    same = tiny.prompts(["cde"] * 8)
    ids = collect(batch=same, keys=[7, 7, *range(8, 14)]).rollout.response_ids
    assert torch.equal(ids[0], ids[1])
    assert len({tuple(row) for row in ids.tolist()}) > 4


def test_a_response_is_keyed_by_its_prompts_key_and_its_place_among_the_prompts_responses(collect):
    pairs = collect(settings=replace(SETTINGS, num_responses_per_prompt=2)).rollout
    for place in (0, 1):
        singles = collect(keys=[2 * row + place for row in range(6)]).rollout
        for row in range(6):
            ids = singles.response_ids[row][singles.completion_mask[row]].tolist()
            same = 2 * row + place
            assert pairs.response_ids[same][pairs.completion_mask[same]].tolist() == ids


def test_token_rewards_advantages_and_returns_are_those_of_a_slow_loop(tiny, collect):
    actor_critic = moved(tiny.actor_critic())
    settings = replace(SETTINGS, gamma=0.9, gae_lambda=0.7)
    rollout, _, samples, token_rewards, _ = collect(actor_critic, settings=settings, kl_coef=0.3)
    raw, expected_returns = [], []
    for row, sample in enumerate(samples):
        length = int(rollout.completion_mask[row].sum())
        rewards = (-0.3 * (rollout.old_logprobs[row] - rollout.ref_logprobs[row])[:length]).tolist()
        rewards[-1] += sample.scores["letters"]
        np.testing.assert_allclose(token_rewards[row, :length].numpy(), rewards, atol=1e-6)
        values = [*rollout.old_values[row, :length].tolist(), 0.0]
        advantages, following = [0.0] * length, 0.0
        for t in reversed(range(length)):
            following = rewards[t] + 0.9 * values[t + 1] - values[t] + 0.9 * 0.7 * following
            advantages[t] = following
        raw.append(advantages)
        expected_returns.append([advantage + value for advantage, value in zip(advantages, values, strict=False)])
    flat = np.array([advantage for row in raw for advantage in row])
    for row, advantages in enumerate(raw):
        length = len(advantages)
        whitened = (np.array(advantages) - flat.mean()) / flat.std()
        np.testing.assert_allclose(rollout.advantages[row, :length].numpy(), whitened, atol=1e-4)
        np.testing.assert_allclose(rollout.returns[row, :length].numpy(), expected_returns[row], atol=1e-5)
        assert not rollout.advantages[row, length:].any()
    assert not any(tensor.requires_grad for tensor in rollout)


def test_statistics_are_means_over_the_responses(tiny, collect):
    rollout, statistics, samples, *_ = collect(moved(tiny.actor_critic()), kl_coef=0.3)
    kl = (rollout.old_logprobs - rollout.ref_logprobs).sum(-1)
    scores = torch.tensor([sample.scores["letters"] for sample in samples])
    metrics = statistics.metrics
    assert statistics.num_sequences == 6
    assert statistics.kl == metrics["objective/kl"] == pytest.approx(float(kl.mean()), abs=1e-6)
    assert metrics["objective/scores"] == pytest.approx(float(scores.mean()), abs=1e-6)
    assert metrics["scores/letters"] == metrics["objective/scores"]
    assert metrics["objective/rlhf_reward"] == pytest.approx(float((scores - 0.3 * kl).mean()), abs=1e-6)
    assert metrics["objective/score_deviation"] == pytest.approx(float(scores.std(unbiased=False)), abs=1e-6)
    repetition = distinct_2(rollout.response_ids, rollout.completion_mask)
    assert metrics["rollout/distinct_2"] == pytest.approx(float(repetition.mean()))
    lengths = rollout.completion_mask.sum(-1)
    assert metrics["rollout/response_length"] == pytest.approx(float(lengths.float().mean()))
    assert metrics["rollout/stop_rate"] == pytest.approx(sum(sample.stopped for sample in samples) / 6)
    residual, returns = (
        (rollout.returns - rollout.old_values)[rollout.completion_mask],
        rollout.returns[rollout.completion_mask],
    )
    expected = 1 - residual.var(unbiased=False) / returns.var(unbiased=False)
    assert metrics["value/explained_variance"] == pytest.approx(float(expected), abs=1e-5)


def test_entropy_is_that_of_the_sampling_distribution(tiny, collect):
    rollout, statistics, *_ = collect(kl_coef=0.0)
    model, total = tiny.llama(), 0.0
    for row in range(6):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        response = rollout.response_ids[row][rollout.completion_mask[row]]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1] / 0.8
        total += float(torch.distributions.Categorical(logits=logits).entropy().sum())
    assert statistics.metrics["objective/entropy"] == pytest.approx(total / 6, abs=1e-4)


def test_the_untrained_policy_has_no_kl(collect):
    assert collect().statistics.kl == 0


def test_moments_and_statistics_span_all_ranks(tiny, collect, prompts):
    """Two ranks with half the prompts each whiten and count as one process with all of them."""
    actor_critic = moved(tiny.actor_critic())
    whole = collect(actor_critic)
    halves = [picked(prompts, rows) for rows in ([0, 2, 4], [1, 3, 5])]
    own: list[list[torch.Tensor]] = [[], []]
    # what the other rank gave in each reduction is known once it has run; later reductions depend on earlier sums
    for _ in range(10):
        results = []
        for rank in (0, 1):
            given, calls = [], Counter()

            def reduce(tensor, rank=rank, given=given, calls=calls):
                place = calls["n"]
                calls["n"] += 1
                given.append(tensor.clone())
                others = own[1 - rank]
                return tensor + (others[place] if place < len(others) else torch.zeros_like(tensor))

            results.append(collect(actor_critic, batch=halves[rank], runtime=RolloutRuntime(reduce=reduce)))
            own[rank] = given
    assert results[0].statistics.metrics == pytest.approx(results[1].statistics.metrics)
    assert results[0].statistics.metrics == pytest.approx(whole.statistics.metrics, abs=1e-5)
    assert results[0].statistics.num_sequences == 6
    width = results[1].rollout.advantages.shape[1]
    expected = whole.rollout.advantages[[1, 3, 5], :width]
    torch.testing.assert_close(results[1].rollout.advantages, expected, atol=1e-4, rtol=0)


def test_the_missing_stop_penalty_is_taken_off_unstopped_responses_alone(collect):
    plain = collect(settings=replace(SETTINGS, max_response_length=3))
    punished = collect(settings=replace(SETTINGS, max_response_length=3, missing_stop_penalty=2.5))
    stopped = [sample.stopped for sample in plain.samples]
    assert any(stopped)
    assert not all(stopped)
    for before, after in zip(plain.samples, punished.samples, strict=True):
        assert after.score == pytest.approx(before.score - (0 if before.stopped else 2.5))
        assert after.scores == before.scores


def test_masked_responses_stay_out_of_the_loss_and_of_whitening(collect):
    settings = replace(SETTINGS, max_response_length=3, mask_unstopped=True)
    rollout, statistics, samples, *_ = collect(settings=settings)
    stopped = torch.tensor([sample.stopped for sample in samples])
    assert torch.equal(rollout.loss_mask, rollout.completion_mask & stopped[:, None])
    assert statistics.metrics["rollout/masked_rate"] == pytest.approx(1 - float(stopped.float().mean()))
    kept = rollout.advantages[rollout.loss_mask]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-5)
    assert float(kept.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    assert not rollout.advantages[~rollout.loss_mask].any()


def test_a_rollout_without_a_stopped_response_is_masked_whole_and_stays_finite(collect):
    settings = replace(SETTINGS, max_response_length=1, mask_unstopped=True)
    rollout = collect(settings=settings, function=lambda prompts, responses, **columns: [1.0] * len(responses)).rollout
    assert all(tensor.isfinite().all() for tensor in rollout if tensor.is_floating_point())


class Places(RankingConverter):
    def __call__(self, ranks):
        return -ranks[0]


def test_converted_rewards_of_a_prompts_responses_take_the_place_of_scores(collect):
    settings = replace(SETTINGS, num_responses_per_prompt=3, missing_stop_penalty=0.25)
    samples = collect(settings=settings, converter=Places()).samples
    for start in range(0, 18, 3):
        group = samples[start : start + 3]
        raw = [sample.scores["letters"] for sample in group]
        places = [sorted(set(raw), reverse=True).index(score) for score in raw]
        expected = [-place - 0.25 * (not sample.stopped) for place, sample in zip(places, group, strict=True)]
        assert [sample.score for sample in group] == pytest.approx(expected)


def test_normalised_scores_have_mean_zero_and_deviation_one(collect):
    normalizer = ScoreNormalizer()
    scores = torch.tensor([sample.score for sample in collect(normalizer=normalizer).samples])
    assert float(scores.mean()) == pytest.approx(0, abs=1e-5)
    assert float(scores.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert normalizer.state_dict()["count"] == 6


def test_scores_of_tokens_are_paid_where_they_stand(tiny, collect):
    def function(prompts, responses, *, response_tokens, **columns):
        return [[float(index) for index in range(len(tokens))] for tokens in response_tokens]

    settings = replace(SETTINGS, gamma=1.0, gae_lambda=1.0, missing_stop_penalty=0.5)
    rollout, _, samples, *_ = collect(settings=settings, function=function, kl_coef=0.0)
    for row, sample in enumerate(samples):
        length = sample.length
        rewards = np.arange(length, dtype=float)
        rewards[-1] -= 0.0 if sample.stopped else 0.5
        returns = rewards[::-1].cumsum()[::-1]
        np.testing.assert_allclose(rollout.returns[row, :length].numpy(), returns, atol=1e-5)
        assert sample.score == pytest.approx(rewards.sum())


def test_sampling_and_scoring_run_in_the_trainers_contexts(collect):
    entered = Counter()

    def context(name):
        @contextmanager
        def enter():
            entered[name] += 1
            yield

        return enter

    collect(runtime=RolloutRuntime(precision=context("precision"), generation=context("generation")), batch_size=2)
    assert entered == {"generation": 1, "precision": 1 + 3}  # one around sampling, one per scoring pass


def test_parts_of_the_model_come_back_in_the_modes_that_they_were_in(tiny, collect):
    actor_critic = tiny.actor_critic().train()
    actor_critic.reference.eval()
    modes = {name: module.training for name, module in actor_critic.named_modules()}
    collect(actor_critic)
    assert {name: module.training for name, module in actor_critic.named_modules()} == modes
    assert any(modes.values())
    assert not all(modes.values())


def test_the_other_sampler_gives_a_rollout_that_can_be_repeated(collect):
    settings = replace(SETTINGS, sampler="transformers")
    first, second = (collect(settings=settings).rollout for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.completion_mask.any(-1).all()


@pytest.mark.parametrize("sampler", ["builtin", "transformers"])
def test_nothing_is_drawn_from_the_global_generator(tiny, collect, sampler):
    actor_critic = tiny.actor_critic()  # built beforehand: its weights are drawn from it
    torch.rand(3)  # a state that no seed gives
    before, numpys = torch.get_rng_state(), np.random.get_state()  # Python's own is drawn from by the checks of shapes
    collect(actor_critic, settings=replace(SETTINGS, sampler=sampler))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_equal(np.random.get_state(), numpys)


def test_samples_say_what_the_table_shows(collect):
    rollout, _, samples, *_ = collect()
    assert [sample.prompt for sample in samples] == ["cde", "fghijk", "c", "lkjihgfed", "efe", "dd"]
    for row, sample in enumerate(samples):
        ids = rollout.response_ids[row][rollout.completion_mask[row]].tolist()
        assert sample.response == "".join(chr(ord("a") + token) for token in ids if token != 1)
        assert sample.length == len(ids)
        assert math.isfinite(sample.kl)


def odd_letters(response):
    """Letters of odd number in the first three."""
    return float(sum(ord(letter) % 2 for letter in response[:3]))


def test_the_mean_of_a_scorer_is_that_of_the_responses_it_applies_to(tiny, prompts):
    def of_some(prompts, responses, **columns):
        return [odd_letters(response) or None for response in responses]

    def of_all(prompts, responses, **columns):
        return [1.0] * len(responses)

    scorers = [RewardFunctionScorer(tiny.function_scorer(each), each.__name__) for each in (of_some, of_all)]
    collected = collect_rollout(
        tiny.actor_critic(),
        prompts,
        ScorePipeline(scorers, weights=[2.0, 1.0]),
        tiny.formatter(),
        SETTINGS,
        RolloutRuntime(),
        seed=3,
        iteration=0,
        kl_coef=0.0,
        batch_size=4,
    )
    counts = [odd_letters(sample.response) for sample in collected.samples]
    some = [count for count in counts if count]
    assert 0 < len(some) < len(counts)
    metrics = collected.statistics.metrics
    assert metrics["scores/of_some"] == pytest.approx(sum(some) / len(some))
    assert metrics["scores/of_some_rated_share"] == pytest.approx(len(some) / len(counts))
    assert metrics["objective/scores"] == pytest.approx(1 + 2 * sum(some) / len(counts))
    assert "scores/of_all_rated_share" not in metrics
    assert [set(sample.scores) for sample in collected.samples] == [
        {"of_some", "of_all"} if count else {"of_all"} for count in counts
    ]
