"""What `predict` gives: several samples per prompt, and scores of responses that are there."""

import json

import pytest

from lightning_rlhf.callbacks.prediction_writer import PredictionWriter
from lightning_rlhf.data import DemonstrationData, PromptData, RankingData
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.records import Demonstration, Message, Ranking

pytestmark = pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")

SAMPLING = {"temperature": 1.0, "max_response_length": 5}


def predicted(kit, path, module, data):
    kit.trainer(path, callbacks=[PredictionWriter(overwrite=True)]).predict(module, data, return_predictions=False)
    return [json.loads(line) for line in (path / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_samples_are_numbered_rows_that_depend_on_nothing_but_prompt_and_number(kit, tmp_path, stage):
    def rows(number, batch_size):
        module, _ = kit.stage(stage, num_responses_per_prompt=number, **SAMPLING)
        return predicted(kit, tmp_path, module, PromptData(kit.Prompts(), batch_size=batch_size))

    several, single = rows(3, 1), rows(1, 2)
    assert [(row["prompt"], row["sample"]) for row in several] == [
        (f"say {prompt}\n", sample) for prompt in range(2) for sample in (1, 2, 3)
    ]
    assert [row["response"] for row in rows(3, 2)] == [row["response"] for row in several]
    assert [row["response"] for row in several[::3]] == [row["response"] for row in single]
    assert len({row["response"] for row in several}) > 2
    assert not any("sample" in row for row in single)


def test_sft_answers_the_prompts_of_prompt_data_but_does_not_learn_from_them(kit, tmp_path):
    module, demonstrations = kit.sft()
    prompts = PromptData(kit.Prompts())
    assert predicted(kit, tmp_path, module, prompts) == predicted(kit, tmp_path, module, demonstrations)
    with pytest.raises(ConfigError, match="must be run with a DemonstrationData, got a PromptData"):
        kit.trainer(tmp_path).fit(module, prompts)


def test_several_greedy_responses_to_a_prompt_are_refused(kit):
    with pytest.raises(ConfigError, match="be 1 with the temperature 0"):
        kit.sft(num_responses_per_prompt=2)


class Answered(DataSource):
    """The last turn of each row is a response."""

    def __init__(self, kind):
        self.kind = kind

    def load(self, split):
        rows = [(f"say {row}\n", "ab" * (1 + row)) for row in range(3)]
        if self.kind is Ranking:
            return [Ranking(prompt, (response, "c"), ((0, 1),)) for prompt, response in rows]
        return [Demonstration((Message("user", prompt), Message("assistant", response))) for prompt, response in rows]


@pytest.mark.parametrize("data", [RankingData, DemonstrationData])
def test_a_reward_model_scores_rows_of_a_prompt_and_a_response(kit, tmp_path, data):
    module, _ = kit.reward()
    among_others = predicted(kit, tmp_path, module, RankingData(Answered(Ranking)))[::2]
    alone = predicted(kit, tmp_path, module, data(Answered(Demonstration), batch_size=2))
    assert [row["score"] for row in alone] == pytest.approx([row["score"] for row in among_others], abs=1e-5)
    assert [(row["prompt"], row["response"]) for row in alone] == [
        (row["prompt"], row["response"]) for row in among_others
    ]
    assert {row["rank"] for row in alone} == {None}


def test_a_response_without_a_rank_has_none_in_predictions(kit, tmp_path):
    class Unranked(DataSource):
        def load(self, split):
            return [Ranking("say\n", ("a", "bb", "ccc"), ((1, 0, None),))]

    module, _ = kit.reward()
    rows = predicted(kit, tmp_path, module, RankingData(Unranked()))
    assert [row["rank"] for row in rows] == [1, 0, None]
