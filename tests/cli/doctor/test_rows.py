import pytest

from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.cli.doctor.rows import Fields, GoodRows, LabelCoverage, Positions, PretrainingRows, Truncation
from lightning_rlhf.errors import BadRowError
from lightning_rlhf.records import Demonstration, Message, Ranking


def test_a_bad_row_fails_where_a_run_would_stop_and_warns_where_it_would_skip(kit):
    rows = [*kit.demonstrations(), BadRowError("a message must have a role.", origin="rows.jsonl", line=13)]
    for on_bad_row, status in (("error", "FAIL"), ("skip", "WARN")):
        result = kit.only(GoodRows(), kit.subject("sft", data={"source": kit.Records(rows), "on_bad_row": on_bad_row}))
        assert result.status == status
        assert "rows.jsonl:13: a message must have a role." in result.fix


def test_a_split_without_a_usable_row_fails(kit):
    tied = [Ranking("q", ("a", "b"), (0, 0))]
    result = kit.only(GoodRows(), kit.subject("reward", data={"source": kit.Records(tied)}))
    assert result.status == "FAIL"
    assert "1 without an ordered pair" in result.finding


def test_records_of_another_data_module_fail_with_who_reads_them(kit):
    result = kit.only(GoodRows(), kit.subject("sft", data={"source": kit.Records(kit.prompts())}))
    assert result.status == "FAIL"
    assert "PromptData reads those" in result.finding
    assert "--data" in result.fix


def test_a_bad_row_of_the_validation_split_fails_as_it_would_stop_the_run(kit, tmp_path):
    good, bad = '{"prompt": "a", "response": "b"}\n', '{"prompt": "a", "response": null}\n'
    (tmp_path / "a.jsonl").write_text(good, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(good + bad, encoding="utf-8")
    source = FileSource({"train": str(tmp_path / "a.jsonl"), "validation": str(tmp_path / "b.jsonl")})
    train, validation = kit.results(GoodRows(), kit.subject("sft", data={"source": source}))
    assert (train.status, validation.status) == ("PASS", "FAIL")
    assert "b.jsonl:2: a demonstration row must have the field 'response'" in validation.fix


def test_a_fraction_that_holds_out_no_row_is_told_of(kit, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 12, encoding="utf-8")
    source = FileSource(str(tmp_path / "a.jsonl"), val_fraction=0.01)
    _, heldout = kit.results(GoodRows(), kit.subject("sft", data={"source": source}))
    assert (heldout.status, "of 12 rows holds out none" in heldout.finding) == ("WARN", True)


def test_fields_that_nothing_reads_are_listed(kit, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b", "input": "lost"}\n' * 3, encoding="utf-8")
    result = kit.only(Fields(), kit.subject("sft", data={"source": FileSource(str(tmp_path / "a.jsonl"))}))
    assert (result.status, result.finding) == ("WARN", "nothing reads input (3 rows)")


@pytest.mark.parametrize(("margin_scale", "statuses"), [(0.0, ["FAIL"]), (1.0, ["PASS"])])
def test_margins_that_would_not_be_learned_fail(kit, margin_scale, statuses):
    source = kit.Records([Ranking("q", ("a", "b"), (0, 1), margin=1.0)])
    subject = kit.subject("reward", data={"source": source}, margin_scale=margin_scale)
    assert kit.statuses(Fields(), subject) == statuses


def answers(*lengths):
    return [Demonstration((Message("user", "q"), Message("assistant", "a" * length))) for length in lengths]


@pytest.mark.parametrize(("num_long", "status"), [(0, "PASS"), (2, "WARN"), (15, "FAIL")])
def test_cut_rows_are_found_with_the_length_that_would_keep_them(kit, num_long, status):
    source = kit.Records(answers(*[5] * (20 - num_long), *[50] * num_long))
    result = kit.only(Truncation(), kit.subject("sft", data={"source": source, "max_length": 20}))
    assert result.status == status
    assert ("max_length 53" in result.fix) == bool(num_long)  # BOS, q, 50 and EOS


@pytest.mark.parametrize(("max_positions", "status"), [(30, "PASS"), (19, "FAIL")])
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_rows_that_the_model_has_no_positions_for_fail(kit, stage, max_positions, status):
    # a prompt of 8 tokens with a response of 12; a demonstration of 23 tokens
    source = kit.Records(answers(20)) if stage == "sft" else kit.Records(kit.prompts())
    result = kit.only(
        Positions(), kit.subject(stage, base=kit.Altered(max_positions=max_positions), data={"source": source})
    )
    assert result.status == status


def test_demonstrations_whose_ends_are_cut_off_fail(kit):
    source = kit.Records(answers(*[50] * 12))
    result = kit.only(
        LabelCoverage(), kit.subject("sft", data={"source": source, "max_length": 20, "truncation": "right"})
    )
    assert result.status == "FAIL"
    assert "would not learn to stop" in result.finding


def test_rows_that_are_left_out_as_too_long_fail_with_what_is_lost(kit):
    source = kit.Records(answers(*[50] * 10, 1, 1))
    subject = kit.subject("sft", data={"source": source, "max_length": 20})
    rows, cut = kit.only(GoodRows(), subject), kit.only(Truncation(), subject)
    assert rows.status == "PASS"
    assert cut.status == "FAIL"
    assert "83% of the rows are cut" in cut.finding
    assert "of 538 tokens are kept" in cut.finding
    assert "learned ones; 10 rows are left out as too long" in cut.finding


def test_rankings_that_mostly_tie_warn(kit):
    rows = [Ranking(f"{i}", ("a", "b"), (0, i % 3)) for i in range(12)]
    result = kit.only(LabelCoverage(), kit.subject("reward", data={"source": kit.Records(rows)}))
    assert result.status == "WARN"
    assert "33% of the rankings have no ordered pair" in result.finding


BAD = BadRowError("text must not be empty.", origin="text.jsonl", line=2)


@pytest.mark.parametrize(
    ("coefficient", "records", "status"),
    [
        (0.5, answers(3), "PASS"),
        (0.5, None, "FAIL"),
        (0.5, [], "FAIL"),
        (0.5, [*answers(3), BAD], "FAIL"),
        (0.0, answers(3), "WARN"),
    ],
)
def test_the_rows_of_the_pretraining_term_are_read_too(kit, coefficient, records, status):
    source = None if records is None else kit.Records(records)
    subject = kit.subject("ppo", ptx_coef=coefficient, data={"ptx_source": source})
    assert kit.statuses(PretrainingRows(), subject) == [status]


def test_a_run_without_a_pretraining_term_needs_no_rows_for_it(kit):
    assert kit.results(PretrainingRows(), kit.subject("ppo")) == []


@pytest.mark.parametrize(("max_length", "advised"), [(20, "Set --data.max_length 30,"), (30, "No longer rows fit")])
def test_no_more_tokens_are_advised_than_the_model_has_positions(kit, max_length, advised):
    source = kit.Records(answers(*[5] * 10, *[50] * 10))
    data = {"source": source, "max_length": max_length, "truncation": "right"}
    subject = kit.subject("sft", base=kit.Altered(max_positions=30), data=data)
    assert kit.only(Positions(), subject).status == "PASS"
    fix = kit.only(Truncation(), subject).fix
    assert fix.startswith(advised)
    assert "--data.truncation (turns, left, right, drop, window; it is right)" in fix
    assert "take a base of 53 positions" in fix


def test_rows_beyond_the_positions_are_told_the_length_that_fits_beside_a_response(kit):
    result = kit.only(Positions(), kit.subject("ppo", base=kit.Altered(max_positions=19)))
    assert "Set --data.max_prompt_length 7, or --model.max_response_length 11," in result.fix
