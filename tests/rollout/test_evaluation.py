import pytest
import torch

from lightning_rlhf.rollout import RolloutRuntime, RolloutSettings, ScorePipeline, evaluate_prompts
from lightning_rlhf.rollout import settings as settings_module
from lightning_rlhf.rollout.reward_functions import RewardFunctionScorer

SETTINGS = RolloutSettings(max_response_length=6, num_responses_per_prompt=4, missing_stop_penalty=3.0)


@pytest.fixture
def evaluate(tiny, prompts):
    def call(batch=prompts, **options):
        function = tiny.function_scorer(lambda prompts, responses, **columns: [len(text) for text in responses])
        return evaluate_prompts(
            tiny.actor_critic(),
            batch,
            ScorePipeline([RewardFunctionScorer(function, "length")], weights=[2.0]),
            tiny.formatter(),
            SETTINGS,
            RolloutRuntime(),
            seed=0,
            **options,
        )

    return call


def test_each_prompt_gets_one_response_with_its_measurements(evaluate):
    columns, samples = evaluate()
    assert set(columns) == {"score", "kl", "response_length", "stop_rate", "distinct_2", "scores/length"}
    assert all(values.shape == (6,) and values.dtype == torch.float32 for values in columns.values())
    assert columns["score"].tolist() == [2.0 * len(sample.response) for sample in samples]
    assert columns["scores/length"].tolist() == [len(sample.response) for sample in samples]
    assert columns["response_length"].tolist() == [sample.length for sample in samples]
    assert columns["stop_rate"].tolist() == [float(sample.stopped) for sample in samples]
    assert not columns["kl"].any()
    for share, sample in zip(columns["distinct_2"].tolist(), samples, strict=True):
        text = sample.response + "\0" * sample.stopped
        pairs = [text[place : place + 2] for place in range(len(text) - 1)]
        assert share == pytest.approx(len(set(pairs)) / len(pairs) if pairs else 1.0)


def test_a_long_evaluation_says_how_far_it_is(tiny, prompts, monkeypatch, capfd):
    monkeypatch.setattr(settings_module, "_PROGRESS_DELAY_S", 0.0)
    scorer = RewardFunctionScorer(tiny.function_scorer(lambda p, r, **columns: [0.0] * len(r)), "none")
    arguments = tiny.actor_critic(), prompts, ScorePipeline([scorer]), tiny.formatter(), SETTINGS
    evaluate_prompts(*arguments, RolloutRuntime(), seed=0, batch_size=2)
    assert capfd.readouterr().err == ""
    evaluate_prompts(*arguments, RolloutRuntime(show_progress=True), seed=0, batch_size=2)
    said = capfd.readouterr().err
    for word in ("sampling", "scoring"):
        assert f"{word}: " in said
    assert "/6 " in said


def test_two_validations_of_one_policy_agree_whatever_the_batch_size(evaluate):
    first, second = evaluate(), evaluate(batch_size=2)
    assert [sample.response for sample in first.samples] == [sample.response for sample in second.samples]


def test_greedy_responses_differ_from_sampled_ones(evaluate):
    sampled, greedy = evaluate(), evaluate(greedy=True)
    assert [sample.response for sample in sampled.samples] != [sample.response for sample in greedy.samples]
