import html.parser
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from lightning_rlhf.cli.main import main

TINY = {"class_path": "tiny", "init_args": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}}
DEMONSTRATIONS = [{"prompt": f"say {i}", "response": "ab" * (1 + i % 4)} for i in range(8)]
RANKINGS = [{"prompt": f"say {i}", "responses": ["aaa", "bb", "c"], "ranks": [1, 0, None]} for i in range(8)]
PROMPTS = [{"prompt": f"say {i}", "answer": i} for i in range(8)]
HARMFUL = "<script>alert(1)</script> [bold]& \x1b[2J"


@pytest.fixture
def inspect(tmp_path, monkeypatch, capsys):
    """Runs the command on rows and gives its exit code, output and messages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def run(module, data, rows, *words, data_args=None, **arguments):
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"class_path": "file", "init_args": {"path": "rows.jsonl"}}
        config = {
            "model": {"class_path": module, "init_args": {"base": TINY, **arguments}},
            "data": {"class_path": data, "init_args": {"source": source, **(data_args or {})}},
            "trainer": {"accelerator": "cpu", "max_epochs": 1},
        }
        Path("config.yaml").write_text(yaml.safe_dump(config))
        status = main(["inspect", "--config=config.yaml", *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def sft(inspect):
    return lambda *words, rows=DEMONSTRATIONS, **options: inspect(
        "SFTModule", "DemonstrationData", rows, *words, **options
    )


@pytest.fixture
def reward(inspect):
    return lambda *words, rows=RANKINGS, **options: inspect("RewardModule", "RankingData", rows, *words, **options)


@pytest.fixture
def ppo(inspect):
    def run(*words, rows=PROMPTS, **options):
        defaults = {"rewards": ["repetition", {"class_path": "length", "init_args": {"target": 3}}]}
        return inspect("PPOModule", "PromptData", rows, *words, **defaults | {"max_response_length": 5} | options)

    return run


def lines(out):
    """The cells of the lines that begin with a number."""
    return [line.split() for line in out.splitlines() if re.match(r"\s*\d+ ", line)]


def test_a_demonstration_is_shown_token_by_token_with_what_is_learned(sft):
    status, out, _ = sft("--row=1")
    assert status == 0
    assert out.startswith("row 1 of file rows.jsonl, train\n")
    rows = lines(out)
    assert "".join(row[2] for row in rows if len(row) > 2).startswith("<s>say")
    learned = [row[-2] for row in rows if len(row) == 6]  # at, id, token, attention, label, logprob
    assert learned == ["67", "68", "67", "68", "2"]
    assert all(float(row[-1]) < 0 for row in rows[1:])
    assert {path.name for path in Path().iterdir()} == {"rows.jsonl", "config.yaml"}


def test_a_packed_row_shows_its_documents_and_where_their_positions_restart(sft):
    _, out, _ = sft("--row=0", data_args={"packing": True, "max_length": 24})
    starts = [row for row in lines(out) if row[0] == "0"]
    assert [row[-1] for row in starts] == ["0", "1"]  # the document; the first token of each has no log-probability
    assert "<s>" in starts[1]


def test_the_candidates_of_a_ranking_are_shown_with_their_scores(reward):
    status, out, _ = reward("--row=2")
    assert status == 0
    best, second, unranked = (line for line in out.splitlines() if re.match(r"\s*[012]\s.*(aaa|bb|not ranked)", line))
    assert best.split()[:4] == ["0", "1", "-1.000", "-1.000"]
    assert second.split()[:4] == ["1", "0", "1.000", "1.000"]
    assert "not ranked: left out" in unranked
    score = best.split()[4]
    assert next(row[-1] for row in lines(out) if len(row) > 1 and row[1] == "2") == score  # at the stop token
    assert "candidate 1" in out
    assert "candidate 2" not in out


def test_a_prompt_is_shown_with_a_response_and_every_number_of_its_tokens(ppo):
    status, out, _ = ppo("--row=3", "--model.kl_coef=0.5")
    assert status == 0
    assert '{"answer": 3}' in out
    rows = [[float(cell) for cell in row[-8:]] for row in lines(out) if len(row) >= 10]
    assert 1 <= len(rows) <= 5
    score = float(re.search(r"response 0: score (\S+) ", out)[1])
    following = 0.0
    for place in reversed(range(len(rows))):
        loss, logprob, reference, kl, token_reward, value, advantage, returned = rows[place]
        assert (loss, value) == (1, 0)  # a value head starts at zero
        assert kl == pytest.approx(logprob - reference, abs=2e-3)
        assert token_reward == pytest.approx(score if place == len(rows) - 1 else 0, abs=2e-3)
        following = token_reward + 0.95 * following
        assert advantage == pytest.approx(following, abs=2e-3)
        assert returned == pytest.approx(advantage + value, abs=2e-3)


def test_every_response_of_a_prompt_is_shown(ppo):
    _, out, _ = ppo("--row=0", num_responses_per_prompt=3)
    assert [f"response {place}: " in out for place in range(4)] == [True, True, True, False]


def test_the_response_depends_on_row_and_seed_alone_as_in_the_first_rollout(ppo):
    _, shown, _ = ppo("--row=3", rollout_size=8, minibatch_size=8)
    first = [row[1] for row in lines(shown) if len(row) >= 10]
    _, again, _ = ppo("--row=3", "--data.batch_size=1")
    assert [row[1] for row in lines(again) if len(row) >= 10] == first
    _, other, _ = ppo("--row=3", "--seed_everything=5")
    assert [row[1] for row in lines(other) if len(row) >= 10] != first


class _Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_a_page_needs_nothing_else_and_escapes_what_rows_and_responses_say(ppo):
    status, out, _ = ppo("--row=0", "--html=row.html", rows=[{"prompt": HARMFUL, "name": HARMFUL}])
    assert (status, out) == (0, "row 0 of file rows.jsonl, train is in row.html\n")
    page = Path("row.html").read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(page)
    assert reader.links == []
    assert "script" not in reader.tags
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page  # the row's column, as JSON
    for heading in ("logprob", "ref", "KL", "token reward", "value", "advantage", "return"):
        assert f"<th>{heading}</th>" in page


def test_harmful_text_does_nothing_in_the_terminal(sft):
    _, out, _ = sft("--row=0", rows=[{"prompt": HARMFUL, "response": HARMFUL}])
    assert "\x1b" not in out
    assert "\\x1b" in out


def test_a_page_that_cannot_be_written_is_a_mistake(sft):
    status, _, err = sft("--row=0", "--html=nowhere/row.html")
    assert status == 2
    assert "--html must name a file that can be written, got nowhere/row.html" in err


def test_a_row_that_is_not_there_says_how_many_there_are(sft):
    status, _, err = sft("--row=8")
    assert status == 2
    assert "usable rows of the train split, 8, got 8. Rows are counted from 0." in err


def test_rows_of_another_split_can_be_shown(sft):
    status, _, err = sft("--row=0", "--split=validation")
    assert status == 2
    assert "validation split, 0" in err
    assert sft("--row=0", "--split=validation", "--data.source.val_fraction=0.5")[0] == 0


def test_a_bad_row_before_it_is_named(sft):
    status, _, err = sft("--row=1", rows=[{"prompt": 7}, *DEMONSTRATIONS])
    assert status == 2
    assert "rows.jsonl:1" in err
    assert sft("--row=1", "--data.on_bad_row=skip", rows=[{"prompt": 7}, *DEMONSTRATIONS])[0] == 0


CHINESE = [{"prompt": "今天？", "response": "很好\n😀"}]


def test_the_first_row_is_shown_as_text_alone_with_what_is_learned_between_brackets(sft):
    status, out, _ = sft("--text", rows=CHINESE)
    assert status == 0
    assert out.startswith("row 0 of file rows.jsonl, train\n")
    assert out.endswith("\ntext\n<s>今天？⟦很好⏎\n😀</s>⟧\n")
    assert lines(out) == []


def test_tokens_that_make_a_character_together_are_shown_as_its_parts(sft):
    _, out, _ = sft(rows=CHINESE)
    assert [" ".join(row[2:4]) for row in lines(out)[1:4]] == ["今 1/3", "今 2/3", "今 3/3"]
    assert "�" not in out


def test_each_document_of_a_packed_row_is_a_text(sft):
    _, out, _ = sft("--text", data_args={"packing": True, "max_length": 24})
    assert "\ndocument 0\n<s>say 0⟦ab</s>⟧\n" in out
    assert "\ndocument 1\n<s>say 1⟦abab</s>⟧\n" in out


def test_the_text_of_a_ranking_is_its_prompt_and_candidates(reward):
    _, out, _ = reward("--text")
    assert "\nprompt\n<s>say 0\n" in out
    assert "\ncandidate 1\n⟦bb</s>⟧\n" in out
    assert "not ranked: left out" in out  # the table of candidates stays
    assert "attention" not in out


def test_the_text_of_a_prompt_stands_before_the_responses_to_it(ppo):
    _, out, _ = ppo("--text", num_responses_per_prompt=2)
    assert re.search(r"prompt\n<s>say 0\n\nresponse 0: score .*\n⟦.+⟧\n\nresponse 1: score .*\n⟦.+⟧\n", out, re.DOTALL)
    assert lines(out) == []


def test_the_page_shows_the_text_with_what_is_learned_marked(sft):
    sft("--text", "--html=row.html", rows=[{"prompt": "<b>今天", "response": "很好"}])
    page = Path("row.html").read_text(encoding="utf-8")
    assert '<span class="prompt">&lt;s&gt;&lt;b&gt;今天</span><span class="learned">很好</span>' in page
    assert '<span class="stop">&lt;/s&gt;</span>' in page
    assert "<table>" not in page
