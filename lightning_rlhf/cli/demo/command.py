"""The demo from start to end."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lightning_rlhf.cli.demo.answers import Answer, Respondent
from lightning_rlhf.cli.demo.configs import BASE, MAX_RESPONSE_LENGTH, TEMPERATURE, write_config
from lightning_rlhf.cli.demo.corpus import Corpus, read_corpus, write_lines
from lightning_rlhf.cli.demo.curves import last
from lightning_rlhf.cli.demo.measures import Measures, distinct_2, rank_correlation, sentiment_judge, sentiment_scorer
from lightning_rlhf.cli.demo.model import write_base
from lightning_rlhf.cli.demo.report import Table, draw_curves, write_report
from lightning_rlhf.cli.demo.targets import targets
from lightning_rlhf.cli.lightning import run as run_trainer_command
from lightning_rlhf.errors import RunDirectoryError
from lightning_rlhf.terminal import escaped

__all__ = ["run"]

_NUM_CANDIDATES = 4
_NUM_JUDGED = 4
_PRETRAINING_ROUNDS = 4
_NUM_RANKED = 3000
"""Questions whose answers are ranked."""
_NUM_SHOWN = 8

_DESCRIPTION = """\
Pretrain a small model from scratch on real dialogues, fine-tune it, train a reward model from rankings of its own
responses, and improve it with PPO: the whole recipe, offline, on one CPU core in a few minutes.

VADER, a sentiment lexicon, rates and ranks four sampled responses to each question; the reward model learns from that;
PPO learns from the reward model. TextBlob, an independent work that nothing was trained on, judges before and after.
"""


def run(argv: Sequence[str]) -> int:
    """Run the demo.

    Args:
        argv: the words after `demo`.

    Returns:
        The exit status.

    Raises:
        LightningRLHFError: a package of the extra `demo` is missing, or the folder cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-rlhf demo", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for everything that the demo writes")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything that is random")
    arguments = parser.parse_args(list(argv))
    # models this small lose more to a second thread than they gain from it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        Demo(arguments.output, arguments.seed).run()
    finally:
        torch.set_num_threads(threads)
    return 0


class Demo:
    """One demo.

    Args:
        output: folder; must be empty or not exist.
        seed: of everything that is random.

    Raises:
        RunDirectoryError: the folder is not empty.
    """

    def __init__(self, output: Path, seed: int) -> None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise RunDirectoryError(
                f"the demo's output must be an empty folder or a new one, got {output}. "
                "Name another with --output, or remove it."
            )
        self.output = output
        self.seed = seed
        self.scorer = sentiment_scorer()
        self.judge = sentiment_judge()
        self.console = Console()
        self.commands: list[str] = []
        self.seconds: dict[str, tuple[float, float]] = {}
        """Wall and CPU seconds of each stage."""

    def run(self) -> None:
        """All stages, then the report."""
        corpus = read_corpus()
        num_parameters = self._write_data(corpus)
        self._say(
            f"{len(corpus.train)} dialogues to learn from, {len(corpus.heldout)} held out; "
            f"a model of {num_parameters:,} parameters, from scratch"
        )
        self._fit("pretrain")
        self._fit("sft")
        correlation = self._timed("rankings", lambda: self._write_rankings(corpus))
        self._fit("reward")
        self._fit("ppo")
        before, after = self._timed("judging", lambda: self._compare(corpus))
        self._report(corpus, before, after, correlation)

    def _write_data(self, corpus: Corpus) -> int:
        data = self.output / "data"
        texts = corpus.texts(_PRETRAINING_ROUNDS, self.seed)
        write_lines(data / "texts-train.jsonl", ({"text": text} for text in texts))
        write_lines(data / "texts-heldout.jsonl", ({"text": "\n".join(pair)} for pair in corpus.heldout))
        for split, pairs, prompts in (
            ("train", corpus.train, corpus.train_prompts),
            ("heldout", corpus.heldout, corpus.heldout_prompts),
        ):
            write_lines(data / f"dialogues-{split}.jsonl", ({"prompt": p, "response": r} for p, r in pairs))
            write_lines(data / f"prompts-{split}.jsonl", ({"prompt": prompt} for prompt in prompts))
        return write_base(self.output / "base", corpus.sentences, **BASE, seed=self.seed)

    def _fit(self, stage: str) -> None:
        path = write_config(stage, self.output, seed=self.seed)
        words = ["fit", "--config", str(path)]
        self.commands.append(" ".join(["lightning-rlhf", *words]))
        self._say(f"$ {self.commands[-1]}")
        self._timed(stage, lambda: run_trainer_command(words))

    def _write_rankings(self, corpus: Corpus) -> float:
        """Four sampled responses to each question, ranked by the scorer; how far the judge would agree."""
        self._say(f"{_NUM_CANDIDATES} responses to each question, ranked by VADER")
        respondent = self._respondent("sft")
        scores: list[float] = []
        judgements: list[float] = []
        for split, prompts in (("train", corpus.train_prompts), ("heldout", corpus.heldout_prompts)):
            chosen = Random(self.seed).sample(prompts, min(_NUM_RANKED, len(prompts)))
            answers = respondent.answers(
                chosen, num_samples=_NUM_CANDIDATES, seed=self.seed, purpose=f"demo rankings {split}"
            )
            starts = range(0, len(answers), _NUM_CANDIDATES)
            rows = [self._ranking(answers[start : start + _NUM_CANDIDATES]) for start in starts]
            scores += [self.scorer(answer.text) for answer in answers]
            judgements += [self.judge(answer.text) for answer in answers]
            write_lines(self.output / "data" / f"rankings-{split}.jsonl", rows)
        return rank_correlation(scores, judgements)

    def _ranking(self, answers: Sequence[Answer]) -> dict[str, Any]:
        scores = [self.scorer(answer.text) for answer in answers]
        places = {score: place for place, score in enumerate(sorted(set(scores), reverse=True))}
        return {
            "prompt": answers[0].prompt,
            "responses": [answer.text for answer in answers],
            "ranks": [places[score] for score in scores],
            "scores": [2 * score - 1 for score in scores],
        }

    def _compare(self, corpus: Corpus) -> tuple[list[Answer], list[Answer]]:
        """Responses of the SFT model and of the PPO model to the held-out questions, on the same random numbers."""
        self._say("responses to the held-out questions before and after PPO")
        prompts, sft = corpus.heldout_prompts, self._model("sft")
        before, after = (
            self._respondent(stage, reference=reference).answers(
                prompts, num_samples=_NUM_JUDGED, seed=self.seed, purpose="demo judging"
            )
            for stage, reference in (("sft", None), ("ppo", sft))
        )
        return before, after

    # What is shown

    def _report(self, corpus: Corpus, before: list[Answer], after: list[Answer], correlation: float) -> None:
        sft, ppo = self._measures(before), self._measures(after)
        reached = targets(
            cpu_seconds=sum(cpu for _, cpu in self.seconds.values()),
            accuracy=last(self.output / "reward", "val/accuracy"),
            longer_wins=last(self.output / "reward", "val/longer_wins"),
            before=sft,
            after=ppo,
        )
        stages = Table(
            "Stages", ("stage", "seconds", "CPU seconds", "metric", "before", "after"), self._stages(sft, ppo)
        )
        samples = Table(
            "Sampled responses to held-out questions", ("question", "before", "after"), _pairs(before, after)
        )
        checks = Table("Targets", ("target", "reached", ""), [target.row() for target in reached])
        agreement = (
            f"VADER and TextBlob agree on the SFT model's responses with a rank correlation of {correlation:.2f}."
        )
        for table in (samples, stages, checks):
            self._show(table)
        self._say(agreement)
        dialogues = f"{len(corpus.train)} dialogues to learn from, {len(corpus.heldout)} held out, seed {self.seed}."
        write_report(
            self.output / "report.html",
            summary=f"{dialogues} {agreement}",
            tables=(stages, checks, samples),
            commands=self.commands,
            figure=draw_curves(self.output),
        )
        results = {
            "seed": self.seed,
            "rank_correlation": correlation,
            "before": sft._asdict(),
            "after": ppo._asdict(),
            "seconds": {stage: {"wall": wall, "cpu": cpu} for stage, (wall, cpu) in self.seconds.items()},
            "targets": [target._asdict() for target in reached],
        }
        (self.output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        self._say(f"report: {self.output / 'report.html'}")

    def _stages(self, before: Measures, after: Measures) -> list[tuple[str, ...]]:
        reward = self.output / "reward"
        metrics = {
            "pretrain": ("held-out text, nats per token", "", f"{last(self.output / 'pretrain', 'val/loss'):.2f}"),
            "sft": ("held-out answers, nats per token", "", f"{last(self.output / 'sft', 'val/loss'):.2f}"),
            "rankings": ("", "", ""),
            "reward": (
                "held-out pairs ranked right (before: longer wins)",
                f"{last(reward, 'val/longer_wins'):.2f}",
                f"{last(reward, 'val/accuracy'):.2f}",
            ),
            "ppo": ("judge on held-out questions, 0 to 1", f"{before.judge:.2f}", f"{after.judge:.2f}"),
            "judging": ("", "", ""),
        }
        rows = [(stage, f"{wall:.0f}", f"{cpu:.0f}", *metrics[stage]) for stage, (wall, cpu) in self.seconds.items()]
        walls, cpus = zip(*self.seconds.values(), strict=True)
        return [*rows, ("all", f"{sum(walls):.0f}", f"{sum(cpus):.0f}", "", "", "")]

    def _measures(self, answers: Sequence[Answer]) -> Measures:
        texts = [answer.text for answer in answers]
        return Measures(
            judge=_mean([self.judge(text) for text in texts]),
            scorer=_mean([self.scorer(text) for text in texts]),
            length=_mean([answer.length for answer in answers]),
            distinct_2=distinct_2(texts),
            kl=_mean([answer.kl for answer in answers]),
        )

    def _show(self, table: Table) -> None:
        shown = RichTable(title=table.title, title_justify="left", show_lines=table.title.startswith("Sampled"))
        for heading in table.headings:
            shown.add_column(heading, overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(escaped(cell)) for cell in row))
        self.console.print(shown)

    def _timed(self, name: str, work: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.seconds[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        return result

    def _respondent(self, stage: str, reference: Path | None = None) -> Respondent:
        return Respondent(
            self._model(stage),
            max_response_length=MAX_RESPONSE_LENGTH,
            temperature=TEMPERATURE,
            reference=reference,
        )

    def _model(self, stage: str) -> Path:
        return self.output / stage / "model"

    def _say(self, line: str) -> None:
        print(line, file=sys.stdout, flush=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _pairs(before: Sequence[Answer], after: Sequence[Answer]) -> list[tuple[str, str, str]]:
    """One sample of each of some questions, evenly spread over them: not chosen by what was said."""
    step = max(1, len(before) // _NUM_SHOWN)
    places = range(0, len(before), step)
    return [(before[place].prompt, before[place].text, after[place].text) for place in places][:_NUM_SHOWN]
