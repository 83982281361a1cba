"""Are the rows good, long enough for the model, not cut too much, and is there something to learn in them?"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.lengths import length_argument, length_fix, positions_fix, room_for_rows
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.data import PromptData, RankingData
from lightning_rlhf.data.rows import Tally
from lightning_rlhf.data.storage import source_name, tokenized_rows
from lightning_rlhf.modules import PPOModule
from lightning_rlhf.terminal import visible

__all__ = ["Fields", "GoodRows", "LabelCoverage", "Positions", "PretrainingRows", "Truncation"]


class GoodRows(Check):
    """The training split holds rows, and no bad ones."""

    name = "rows"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        sample, data = subject.sample, subject.data
        tally, num_rows = sample.tally, len(sample.rows)
        source = source_name(data.source)
        fix = f"Mend the row, or set --data.on_bad_row skip. The first: {tally.first_skipped}"
        if not num_rows:
            unusable = f", {tally.num_skipped} bad ones" if tally.num_skipped else ""
            unusable += f", {tally.num_too_long} too long" if tally.num_too_long else ""
            unusable += f", {tally.num_unordered} without an ordered pair" if tally.num_unordered else ""
            longer = length_fix(subject, sample.whole_lengths) if sample.whole_lengths else "Check the path."
            fix = f"Mend the rows, or name their fields in `columns`. The first: {tally.first_skipped}"
            yield self.failed(f"{source} has no usable row{unusable}", fix if tally.num_skipped else longer)
        elif tally.num_skipped and data.on_bad_row == "error":
            yield self.failed(f"{tally.num_skipped} bad ones beside the first {num_rows} good ones of {source}", fix)
        elif tally.num_skipped:
            yield self.warned(f"{tally.num_skipped} bad ones are skipped beside the first {num_rows} of {source}", fix)
        else:
            yield self.passed(f"the first {num_rows} of {source} are good")
        yield from self._of_validation(subject, source)

    def _of_validation(self, subject: Subject, source: str) -> Iterator[CheckResult]:
        tally = Tally()
        rows = islice(subject.data.stream("validation", tally, on_bad_row="skip"), subject.num_rows)
        num_rows = sum(1 for _ in rows)
        if tally.num_skipped and subject.data.on_bad_row == "error":
            yield self.failed(
                f"{tally.num_skipped} bad ones beside the first {num_rows} good ones of {source}, validation",
                f"Mend the row, or set --data.on_bad_row skip. The first: {tally.first_skipped}",
            )
        elif not num_rows:
            records = subject.data.records("validation")
            if not any(True for _ in records) and (why := getattr(records, "nothing_held_out", "")):
                yield self.warned(*why.split(". ", 1))


class Fields(Check):
    """Every field of the rows is read by something, a margin among them."""

    name = "fields"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One for the fields that nothing reads, or for margins that are not learned by."""
        data, tally = subject.data, subject.sample.tally
        if isinstance(data, RankingData) and (fault := data.margin_fault(tally)) is not None:
            yield self.failed(*fault.split(". ", 1))
        elif not tally.unread_fields:
            yield self.passed("the source tells of none that nothing reads")
        if tally.unread_fields:
            names = ", ".join(f"{visible(name)} ({number} rows)" for name, number in tally.unread_fields.items())
            yield self.warned(
                f"nothing reads {names}",
                "Name in `columns` what belongs to a row; the rest is left out of the records.",
            )


class PretrainingRows(Check):
    """PPO's pretraining term has rows to learn, if it is on."""

    name = "pretraining rows"
    stages = ("ppo",)

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One, where there is a pretraining term or a source for it."""
        data, coefficient = subject.data, subject.ppo.ptx_coef
        assert isinstance(data, PromptData)
        if data.ptx_source is None:
            if coefficient:
                yield self.failed(f"ptx_coef is {coefficient:g}, and there is no ptx_source", "Set --data.ptx_source.")
            return
        tally = Tally()
        stream = tokenized_rows(data.ptx_source, "train", data.ptx_tokenization, "skip", tally)
        rows = list(islice(stream, subject.num_rows))
        facts = f"{len(rows)} of {source_name(data.ptx_source)} were read, beside {tally.num_skipped} bad ones"
        if not rows or (tally.num_skipped and data.on_bad_row == "error"):
            yield self.failed(facts, f"Mend the row, or set --data.on_bad_row skip. The first: {tally.first_skipped}")
        elif not coefficient:
            yield self.warned(f"{facts}; ptx_coef is 0, so none is learned", "Set --model.ptx_coef, or leave them out.")
        else:
            yield self.passed(facts)


class Positions(Check):
    """The longest row, and the response to it, fit the model's positions."""

    name = "positions"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        tokenization, module = subject.data.tokenization, subject.module
        longest_row = longest = max(map(tokenization.length, subject.sample.rows), default=0)
        what = f"the longest row has {longest} tokens"
        if isinstance(module, PPOModule):
            response_length = module.settings.max_response_length
            what, longest = f"{what}, a response up to {response_length}", longest + response_length
        positions = module.max_positions
        if positions is None:
            yield self.passed(f"{what}; the model's config sets no limit")
        elif longest > positions:
            yield self.failed(f"{what}, the model has {positions} positions", positions_fix(subject, longest_row))
        else:
            yield self.passed(f"{what}, the model has {positions} positions")


class Truncation(Check):
    """Few rows are cut."""

    name = "truncation"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        sample = subject.sample
        tally = sample.tally
        if not tally.num_records:
            return
        share = (tally.num_truncated + tally.num_too_long) / tally.num_records
        argument = length_argument(subject)
        limit = getattr(subject.data, argument)
        median, most, longest = np.percentile(sample.whole_lengths, (50, 95, 100)).astype(int).tolist()
        facts = f"tokens per row: median {median}, 95 % up to {most}, longest {longest}; {argument} is {limit}"
        facts += f"; {tally.losses}" if tally.losses else ""
        facts += f"; {tally.num_too_long} rows are left out as too long" if tally.num_too_long else ""
        fix = length_fix(subject, sample.whole_lengths)
        if share > 0.5:
            yield self.failed(f"{share:.0%} of the rows are cut. {facts}", fix)
        elif share > 0.05:
            yield self.warned(f"{share:.0%} of the rows are cut. {facts}", fix)
        else:
            yield self.passed(f"{share:.1%} of the rows are cut. {facts}" if share else facts)


class LabelCoverage(Check):
    """Enough of the rows is learned: responses with their stop tokens, rankings with an order."""

    name = "label coverage"
    stages = ("sft", "reward")

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        if subject.sample.rows:
            yield self._of_demonstrations(subject) if subject.stage == "sft" else self._of_rankings(subject)

    def _of_demonstrations(self, subject: Subject) -> CheckResult:
        rows, stops = subject.sample.rows, subject.formatter.stop_ids
        num_tokens = sum(len(row["input_ids"]) for row in rows)
        num_targets = sum(row["num_targets"] for row in rows)
        last = [
            [index for index, learned in zip(row["input_ids"], row["supervised"], strict=True) if learned][-1:]
            for row in rows
        ]
        endless = sum(not ids or ids[0] not in stops for ids in last) / len(rows)
        empty = sum(row["num_targets"] == 1 for row in rows) / len(rows)
        facts = f"{num_targets / num_tokens:.0%} of {num_tokens} tokens are learned"
        if endless > 0.5:
            return self.failed(
                f"{facts}; {endless:.0%} of the rows end without a stop token: the model would not learn to stop",
                f"{_longer_responses(subject)}.",
            )
        if endless > 0.1 or empty > 0.1:
            return self.warned(
                f"{facts}; {endless:.0%} of the rows end without a stop token, of {empty:.0%} the stop token alone is "
                "learned",
                f"{_longer_responses(subject)}, and check the rows for empty responses.",
            )
        return self.passed(facts)

    def _of_rankings(self, subject: Subject) -> CheckResult:
        rows, tally = subject.sample.rows, subject.sample.tally
        num_candidates = sum(len(row["candidates"]) for row in rows)
        ranked = sum(sum(row["candidates"]) for row in rows)
        unordered = tally.num_unordered / (len(rows) + tally.num_unordered)
        facts = (
            f"{ranked} of {num_candidates} candidates are ranked; {unordered:.0%} of the rankings have no ordered pair "
            "and are left out"
        )
        if unordered > 0.2 or ranked < 0.5 * num_candidates:
            fix = "Check that `ranks` says what is meant: 0 is the best place, equal numbers tie, null is unranked."
            return self.warned(facts, fix)
        return self.passed(facts)


def _longer_responses(subject: Subject) -> str:
    room = room_for_rows(subject)
    limit: int = getattr(subject.data, length_argument(subject))
    if room is not None and limit >= room:
        return "Set --data.truncation turns: the model's positions allow no longer rows"
    return "Raise max_length so that responses are not cut"
