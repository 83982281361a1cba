import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from lightning_rlhf.cli.doctor.command import CHECKS
from lightning_rlhf.cli.doctor.report import print_rows, shown_rows
from lightning_rlhf.cli.main import main

TINY = {"class_path": "tiny", "init_args": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}}
ROWS = {
    "sft": [{"prompt": f"say {i}", "response": "ab" * (1 + i % 4)} for i in range(8)],
    "reward": [{"prompt": f"say {i}", "responses": ["aaa", "bbbbb"], "ranks": [i % 2, 1 - i % 2]} for i in range(8)],
    "ppo": [{"prompt": f"say {i}"} for i in range(8)],
}
CLASSES = {
    "sft": ("SFTModule", "DemonstrationData"),
    "reward": ("RewardModule", "RankingData"),
    "ppo": ("PPOModule", "PromptData"),
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes the config of a stage and its rows into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def write(stage: str, **arguments: object) -> str:
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[stage]))
        if stage == "ppo":
            length = {"class_path": "length", "init_args": {"unit": "characters"}}
            arguments = {"rewards": [length], "max_response_length": 8, "minibatch_size": 4} | arguments
        module, data = CLASSES[stage]
        source = {"class_path": "file", "init_args": {"path": "rows.jsonl"}}
        text = yaml.safe_dump(
            {
                "model": {"class_path": module, "init_args": {"base": TINY, **arguments}},
                "data": {"class_path": data, "init_args": {"source": source}},
                "trainer": {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": "run"},
            }
        )
        Path("config.yaml").write_text(text)
        return "--config=config.yaml"

    return write


@pytest.mark.parametrize("stage", ROWS)
def test_a_healthy_run_passes_and_leaves_nothing_behind(config, capsys, stage):
    words = [config(stage), "--responses=8"]
    assert main(["doctor", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {line[6:].partition(":")[0] for line in lines if line.startswith(("PASS", "WARN"))}
    assert names >= {check.name for check in CHECKS if stage in check.stages} - {
        "unknown tokens",
        "reward head",
        "pretraining rows",
    }
    assert not any(line.startswith("FAIL") for line in lines)
    assert sum("⟦" in line for line in lines) == 2  # no colours in a pipe: what is learned stands between brackets
    assert {path.name for path in Path().iterdir()} == {"rows.jsonl", "config.yaml"}


def test_options_of_fit_and_of_doctor_may_be_mixed(config, capsys):
    assert (
        main(["doctor", config("sft"), "--rows=3", "--data.max_length", "4", "--rows", "2", "--data.truncation=window"])
        == 1
    )
    out = capsys.readouterr().out
    assert "the first 2 of file rows.jsonl" in out
    assert "max_length is 4" in out


def test_a_finding_ends_in_exit_code_1_with_its_fix(config, capsys):
    assert main(["doctor", config("sft"), "--data.max_length=8"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  truncation: " in out
    assert "fix: Set --data.max_length " in out
    assert "FAIL, " in out.splitlines()[-1]


def test_a_bad_row_is_a_finding_and_the_other_checks_go_on(config, capsys):
    words = config("sft")
    with Path("rows.jsonl").open("a") as lines:
        lines.write('{"prompt": 7}\n')
    assert main(["doctor", words]) == 1
    out = capsys.readouterr().out
    assert "rows.jsonl:9" in out
    assert "PASS  supervised text" in out


def test_a_language_model_for_a_reward_model_is_a_finding(config, capsys):
    from lightning_rlhf.builtins.models import TinyModel

    model, tokenizer = TinyModel(**TINY["init_args"]).load()
    model.save_pretrained("language-model")
    tokenizer.save_pretrained("language-model")
    assert main(["doctor", config("ppo", reward_model="language-model")]) == 1
    assert "FAIL  reward head: a reward model must hold a head" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.basee=tiny"], "Did you mean base?"),
        (["--data.source.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["--model.base=nowhere/at/all"], "must be an existing path"),
        (["--stage=ppo"], "got --stage ppo for a config of SFTModule"),
        (["--data=PromptData"], "must be run with a DemonstrationData"),
        (["--ckpt_path=last.ckpt"], "ckpt_path must be left out"),
    ],
)
def test_a_mistake_ends_in_exit_code_2_and_one_sentence(config, capsys, words, message):
    assert main(["doctor", config("sft"), *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_number_of_rows_must_be_positive(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--rows=0"])
    assert ended.value.code == 2
    assert "must be at least 1, got 0" in capsys.readouterr().err


def test_a_stage_names_the_classes_that_the_config_does_not(config, capsys):
    config("sft")
    words = ["--stage=sft", "--model.base=tiny", "--data.source=file", "--data.source.path=rows.jsonl"]
    assert main(["doctor", *words]) == 0
    assert "label coverage" in capsys.readouterr().out


def test_a_run_that_is_there_is_looked_at_and_left_as_it_is(config, capsys):
    words = config("sft")
    Path("run").mkdir()
    Path("run/metrics.csv").write_text("step\n")
    assert main(["doctor", words, "--trainer.strategy=ddp", "--trainer.devices=2"]) == 0
    assert [path.name for path in Path("run").iterdir()] == ["metrics.csv"]
    assert "in each of 2 processes" in capsys.readouterr().out


def test_both_commands_are_in_the_help_and_explain_themselves(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    assert "  doctor  " in out
    assert "  inspect  " in out
    for command in ("doctor", "inspect"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert "--stage" in capsys.readouterr().out


def test_what_is_learned_is_coloured(kit):
    console = Console(force_terminal=True, color_system="standard", width=200, record=True)
    with console.capture() as capture:
        print_rows(console, shown_rows(kit.subject("sft")))
    first = capture.get().splitlines()[1]
    assert first == "\x1b[2m<s>say 0⏎\x1b[0m\x1b[1;32mab</s>\x1b[0m"


@pytest.mark.parametrize(("stage", "title"), [("reward", "a best response"), ("ppo", "sampled")])
def test_the_first_two_rows_of_every_stage_are_shown(kit, stage, title):
    rows = list(shown_rows(kit.subject(stage)))
    assert len(rows) == 2
    for row in rows:
        assert title in row.title
        kinds = [piece.kind for piece in row.pieces]
        assert kinds == sorted(kinds, reverse=True)  # the prompt, then what is learned
        assert "".join(piece.text for piece in row.pieces).startswith("<s>say")


def test_the_page_lists_every_check_with_its_stages():
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")
    listed = {}
    for check in CHECKS:
        listed.setdefault(check.name, set()).update(check.stages)
    rows = dict(re.findall(r"^\| ([^|`]+) \| (all|(?:sft|reward|ppo)(?:, (?:reward|ppo))*) \|", page, re.MULTILINE))
    assert {name: set(ROWS) if stages == "all" else set(stages.split(", ")) for name, stages in rows.items()} == listed
