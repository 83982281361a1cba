"""Reviews from end to end: the three shipped configs take a real model from stories to praise.

Supervised fine-tuning on movie-review sentences, a reward model from human labels, PPO from it; a judge that was fitted
on other rows says whether the responses to held-out prompts became positive.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from review_measures import JUDGE_SHARE, Judge, Reviews, area_under_curve, divide_reviews, encoded, nats_per_token
from transformers import AutoTokenizer

pytestmark = [pytest.mark.real, pytest.mark.timeout(7200)]

NUM_SAMPLES = 2
"""Sampled responses to each held-out prompt."""


class Target(NamedTuple):
    """A measure and what it has to reach."""

    measure: str
    least: float | None = None
    most: float | None = None
    in_the_mean: bool = False
    """Over the seeds; otherwise with every seed."""
    asserted: bool = True
    """A busy machine takes longer: time is shown, and fails no test."""

    def is_met(self, values: list[float]) -> bool:
        """Whether the values of all seeds are as they should be."""
        checked = [sum(values) / len(values)] if self.in_the_mean else values
        return all((self.least is None or v >= self.least) and (self.most is None or v <= self.most) for v in checked)


TARGETS = (
    Target("NLL of the base model, nats per token"),
    Target("NLL after SFT, nats per token", most=2.45),
    Target("AUC of the reward model", least=0.66, in_the_mean=True),
    Target("judge before PPO, mean of 2p - 1"),
    Target("judge after PPO, mean of 2p - 1", least=0.55),
    Target("length after PPO, share of before", least=0.6),
    Target("KL to the SFT model, nats per response", most=15.0),
    Target("CPU seconds", most=400.0, asserted=False),
    Target("AUC of the judge"),
)


class Experiment:
    """The three stages with one seed.

    Args:
        command: the command line.
        configs: the folder of the shipped configs.
        base: directory of the pretrained model.
        seed: of everything that is random.
    """

    def __init__(self, command: Callable[..., int | None], configs: Path, base: str, seed: int) -> None:
        self._command = command
        self._configs = {stage: configs / stage / "stories260k.yaml" for stage in ("sft", "reward", "ppo")}
        self._settings = {
            stage: yaml.safe_load(path.read_text(encoding="utf-8")) for stage, path in self._configs.items()
        }
        self._base = base
        self._seed = seed

    @property
    def val_fraction(self) -> float:
        """What the stages hold out: the same rows in each."""
        fractions = {self._source(stage)["val_fraction"] for stage in self._settings}
        assert len(fractions) == 1
        return float(fractions.pop())

    def run(self, reviews: Reviews) -> list[float]:
        """Trains the stages and measures; one number per target."""
        start = time.process_time()
        files = {f"data.source.{label}": file for label, file in reviews.files.items()}
        paths = ", ".join(str(file) for file in reviews.files.values())
        self._fit("sft", **{"model.base": self._base, "data.source.path": f"[{paths}]"})
        self._fit("reward", **files)
        self._fit("ppo", **files)
        sft, reward, ppo = (Path(self._settings[stage]["trainer"]["default_root_dir"]) for stage in self._settings)
        sentences = [sentence for part in reviews.heldout.values() for sentence in part]
        likelihoods = [nats_per_token(model, sentences) for model in (self._base, sft / "model")]
        auc = area_under_curve(reward / "model", **reviews.heldout)
        judge = Judge(**reviews.judge)
        judged = self._judged(judge, sft / "model", ppo / "model", reviews)
        return [*likelihoods, auc, *judged, time.process_time() - start, judge.area_under_curve(**reviews.heldout)]

    def _fit(self, stage: str, **options: object) -> None:
        assert self._command("fit", "--config", str(self._configs[stage]), seed_everything=self._seed, **options) == 0

    def _judged(self, judge: Judge, before: Path, after: Path, reviews: Reviews) -> tuple[float, ...]:
        """The judge's opinion before and after PPO, the share of the length that is left, and the KL."""
        from configs.components import ReviewPrompts
        from lightning_rlhf.cli.demo.answers import Respondent

        source = ReviewPrompts(**{name: str(file) for name, file in reviews.files.items()}, **self._source("ppo"))
        prompts = [row.prompt[0].content for row in source.load("validation")]
        length = self._settings["ppo"]["model"]["init_args"]["max_response_length"]
        # on the same random numbers
        sft, ppo = (
            model.answers(prompts, num_samples=NUM_SAMPLES, seed=self._seed, purpose="reviews")
            for model in (
                Respondent(before, max_response_length=length),
                Respondent(after, max_response_length=length, reference=before),
            )
        )
        for first, second in list(zip(sft, ppo, strict=True))[:: len(sft) // 8][:8]:
            print(f"{first.prompt} ...\n  before: {first.text}\n  after:  {second.text}")
        lengths = [sum(answer.length for answer in answers) for answers in (sft, ppo)]
        opinions = [judge([answer.text for answer in answers]) for answers in (sft, ppo)]
        return (*opinions, lengths[1] / lengths[0], sum(answer.kl for answer in ppo) / len(ppo))

    def _source(self, stage: str) -> dict[str, object]:
        arguments: dict[str, object] = self._settings[stage]["data"]["init_args"]["source"]["init_args"]
        return arguments


@pytest.fixture
def reviews(data, configs, command, base, tmp_path):
    fraction = Experiment(command, configs, base, 0).val_fraction
    folder = data / "sentiment"
    return divide_reviews(folder / "rt-polarity.pos.gz", folder / "rt-polarity.neg.gz", tmp_path, fraction)


def test_the_judges_rows_are_none_of_the_stages_and_held_out_rows_are_held_out_in_all(reviews, configs):
    from configs.components import ReviewPairs, ReviewPrompts
    from lightning_rlhf.builtins.sources import FileSource

    given = {label: set(file.read_text(encoding="utf-8").splitlines()) for label, file in reviews.files.items()}
    for label, sentences in reviews.judge.items():
        assert not given[label] & set(sentences)
        assert abs(len(sentences) / (len(sentences) + len(given[label])) - JUDGE_SHARE) < 0.03
    heldout = {sentence for part in reviews.heldout.values() for sentence in part}
    files = {label: str(file) for label, file in reviews.files.items()}
    texts = FileSource(list(files.values()), val_fraction=0.1)
    assert {row.text for row in texts.load("validation")} == heldout
    assert not {row.text for row in texts.load("train")} & heldout
    pairs = ReviewPairs(**files, val_fraction=0.1)
    assert {response for row in pairs.load("validation") for response in row.responses} <= heldout
    assert not {response for row in pairs.load("train") for response in row.responses} & heldout
    starts = {" ".join(sentence.split()[:3]) for sentence in heldout}
    assert {row.prompt[0].content for row in ReviewPrompts(**files, val_fraction=0.1).load("validation")} <= starts


def test_the_measures_read_the_ids_that_the_stages_train_on(reviews, base):
    from lightning_rlhf import Message
    from lightning_rlhf.builtins.templates import PlainTemplate
    from lightning_rlhf.data import PromptFormatter

    tokenizer = AutoTokenizer.from_pretrained(base)
    formatter = PromptFormatter(PlainTemplate(), tokenizer)
    for sentence in reviews.heldout["positive"]:
        read = encoded(tokenizer, sentence)
        assert formatter.encode_text(sentence) == read
        assert formatter.encode((Message("user", ""), Message("assistant", sentence))).ids == read


@pytest.mark.parametrize("seeds", [(1,), pytest.param((1, 2, 3), marks=pytest.mark.slow)], ids=len)
def test_the_shipped_configs_turn_a_model_of_stories_into_one_that_writes_praise(
    seeds, reviews, configs, command, base, tmp_path, monkeypatch, capsys
):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measured = []
    for seed in seeds:
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        measured.append(Experiment(command, configs, base, seed).run(reviews))
    torch.set_num_threads(threads)
    columns = list(zip(*measured, strict=True))
    met = [target.is_met(list(values)) for target, values in zip(TARGETS, columns, strict=True)]
    with capsys.disabled():
        print(f"\n{'':40} {'target':>8}", *(f"{f'seed {seed}':>8}" for seed in seeds), f"{'mean':>8}")
        for target, values, is_met in zip(TARGETS, columns, met, strict=True):
            bound = f">= {target.least}" if target.least is not None else f"<= {target.most}" if target.most else ""
            numbers = [f"{value:8.2f}" for value in (*values, sum(values) / len(values))]
            print(f"{target.measure:40} {bound:>8}", *numbers, "" if is_met else "missed")
    assert all(is_met for target, is_met in zip(TARGETS, met, strict=True) if target.asserted)
