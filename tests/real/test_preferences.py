"""Preferences: three annotators with ties through a converter, and Chinese in two layouts."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.real

PANDALM = "preference/pandalm_human_testset_v1.jsonl.gz"
CHINESE = ("preference/dpo_zh_demo.jsonl.gz", "preference/dpo_zh_500.jsonl.gz")
_VOTES = {0: 0, 1: 1, 2: -1}


def is_text(row):
    return isinstance(row["response1"], str) and isinstance(row["response2"], str)


@pytest.mark.parametrize("converter", ["linear", "bradley_terry"])
def test_three_annotators_with_ties_train_a_reward_model(fit, few_steps, data, rows, converter):
    usable = [row for row in rows(PANDALM) if is_text(row)]
    # two against one is an order; all tied, or one against one, is none
    votes = [sum(_VOTES[row[f"annotator{number}"]] for number in (1, 2, 3)) for row in usable]
    options = {"data.source.path": data / PANDALM, "data.converter": converter}
    with pytest.warns(UserWarning, match="bad rows skipped") as warned:
        run = fit("reward/pandalm.yaml", **few_steps, **options)
    report = next(str(warning.message) for warning in warned if "bad rows" in str(warning.message))
    num_tied = votes.count(0)
    assert num_tied > 20
    assert f"train: {len(usable) - num_tied} rows, {len(rows(PANDALM)) - len(usable)} bad rows skipped" in report
    assert f"{num_tied} rankings without an ordered pair" in report
    run.assert_learned()


def test_a_response_that_is_true_is_a_bad_row_with_its_line_and_an_empty_one_is_none(data, rows):
    from configs.components import PandaLMRankings
    from lightning_rlhf.errors import BadRowError

    found = list(PandaLMRankings(str(data / PANDALM), val_fraction=0.0).load("train"))
    expected = rows(PANDALM)
    assert len(found) == len(expected)
    bad = {place: row for place, row in enumerate(found) if isinstance(row, BadRowError)}
    assert bad.keys() == {place for place, row in enumerate(expected) if not is_text(row)}
    assert len(bad) == 6
    for place, error in bad.items():
        assert str(error) == f"{data / PANDALM}:{place + 1}: a response must be a string, got True."
    empty = [place for place, row in enumerate(expected) if "" in (row["response1"], row["response2"])]
    assert len(empty) == 18
    assert all("" in found[place].responses for place in empty)


def test_the_annotators_verdicts_become_places(data, rows):
    from configs.components import PandaLMRankings

    (first, *_), expected = PandaLMRankings(str(data / PANDALM)).load("train"), rows(PANDALM)
    row = next(row for row in expected if row["response1"] == first.responses[0] and row["instruction"])
    places = {0: (0, 0), 1: (0, 1), 2: (1, 0)}
    assert first.ranks == tuple(places[row[f"annotator{number}"]] for number in (1, 2, 3))


def test_one_bad_row_ends_a_run_that_is_not_told_to_skip_it(data, base, command, configs, capsys):
    options = {"data.source.path": data / PANDALM, "data.source.val_fraction": 0, "data.on_bad_row": "error"}
    options |= {"model.base": base, "trainer.default_root_dir": "refused"}
    assert command("fit", "--config", str(configs / "reward/pandalm.yaml"), **options) == 2
    assert f"{data / PANDALM}:83: a response must be a string, got True." in capsys.readouterr().err
    assert not Path("refused").exists()


def test_chinese_preferences_in_both_layouts_train_a_reward_model(fit, few_steps, data, rows):
    num_rows = sum(len(rows(name)) for name in CHINESE)
    paths = ", ".join(str(data / name) for name in CHINESE)
    run = fit("reward/dpo-zh.yaml", **few_steps, **{"data.source.path": f"[{paths}]"})
    assert f"train: {num_rows} rows, " in run.report
    run.assert_learned()
