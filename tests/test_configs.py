"""Every shipped config against the real signatures: offline, nothing is loaded."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from lightning_rlhf import registry
from lightning_rlhf.cli.demo.configs import STAGES, stage_config
from lightning_rlhf.cli.lightning import RLHFCLI
from lightning_rlhf.errors import ConfigError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.relative_to(ROOT) for path in ROOT.glob("configs/*/*.yaml"))
HEADER = ("Purpose", "Hardware", "Time", "Command", "Expected")
MODULES = {"sft": "SFTModule", "reward": "RewardModule", "ppo": "PPOModule"}
DATA = {"sft": "DemonstrationData", "reward": "RankingData", "ppo": "PromptData"}


@pytest.fixture(scope="module")
def parser():
    """The parser of the command line: built once, because that is what takes the time."""
    built = []

    class ParserOnly(RLHFCLI):
        def parse_arguments(self, parser, args):
            built.append(parser)
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))  # as the working directory is for the console script
        patch.chdir(ROOT)
        registry.publish()
        with pytest.raises(InterruptedError):
            ParserOnly(["fit"])
        yield built[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        del sys.modules[name]


def header(path):
    """The fields of a config's first comment."""
    comment = re.match(r"(?:#.*\n)+", (ROOT / path).read_text(encoding="utf-8"))
    assert comment, f"{path} must begin with a comment"
    lines = [line.removeprefix("#").removeprefix(" ") for line in comment[0].splitlines()]
    fields = {}
    for line in lines:
        name, colon, text = line.partition(":")
        if colon and name in HEADER:
            fields[name] = text.strip()
            last = name
        else:
            fields[last] += f"\n{line}"
    return fields


def command(path):
    """The words of the command in a config's header."""
    text = header(path)["Command"].replace("\\\n", "")
    return shlex.split(text[text.index("lightning-rlhf fit") :])


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_the_command_in_the_header_is_understood(path, parser):
    program, subcommand, *words = command(path)
    assert (program, subcommand, words[:2]) == ("lightning-rlhf", "fit", ["--config", str(path)])
    config = parser.parse_args([subcommand, *words])["fit"]
    stage = path.parent.name
    assert config.model.class_path.rpartition(".")[2] == MODULES[stage]
    assert config.data.class_path.rpartition(".")[2] == DATA[stage]
    assert config.trainer.default_root_dir.startswith(("runs/", "demo/"))


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_the_header_says_what_one_wants_to_know_first(path):
    assert tuple(header(path)) == HEADER
    assert all(text.strip() for text in header(path).values())


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_three_commands_of_the_readme_are_understood(page, parser):
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = re.findall(r"^lightning-rlhf fit --model (?:.*\\\n)*.*$", text, re.MULTILINE)
    for text, stage in zip(commands, MODULES, strict=True):
        _, *words = shlex.split(text.replace("\\\n", ""))
        config = parser.parse_args(words)["fit"]
        assert config.model.class_path.rpartition(".")[2] == MODULES[stage]
        assert config.trainer.default_root_dir == f"runs/{stage}"


@pytest.mark.parametrize("word", ["--model.learning_rat=1", "--data.batchsize=1", "--model.value_model=split"])
def test_what_no_signature_has_is_refused(word, parser):
    with pytest.raises(ConfigError):
        parser.parse_args(["fit", *command(Path("configs/ppo/gpt2.yaml"))[2:], word])


def test_every_stage_has_a_config_for_every_model():
    stems = {"demo", "stories260k", "smollm2-135m-lora", "gpt2"}
    for stage in MODULES:
        assert stems <= {path.stem for path in CONFIGS if path.parent.name == stage}


def test_a_stage_starts_from_what_an_earlier_config_leaves(parser):
    configs = {path: parser.parse_args(["fit", *command(path)[2:]])["fit"] for path in CONFIGS}
    left = {(path.parent.name, config.trainer.default_root_dir) for path, config in configs.items()}
    for path, config in configs.items():
        for argument, stage in (("base", "sft"), ("reward_model", "reward")):
            model = config.model.init_args.get(argument)
            if isinstance(model, str) and model.endswith("/model"):
                assert (stage, model.removesuffix("/model")) in left, path


@pytest.mark.parametrize("stage", STAGES)
def test_the_demo_runs_its_config_as_it_is_shipped(stage):
    path = ROOT / ("configs/sft/demo-pretrain.yaml" if stage == "pretrain" else f"configs/{stage}/demo.yaml")
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == stage_config(stage, Path("demo"), seed=1)


def test_review_rows_keep_every_sentence_on_one_side(tmp_path, parser):
    from configs.components import ReviewPairs, ReviewPrompts

    files = {}
    for kind in ("positive", "negative"):
        files[kind] = str(tmp_path / f"{kind}.txt")
        Path(files[kind]).write_text("".join(f"the {kind} film number {n} is here .\n" for n in range(100)))
    pairs, prompts = ReviewPairs(**files, val_fraction=0.2), ReviewPrompts(**files, num_words=5, val_fraction=0.2)
    sentences, starts = {}, {}
    for split in ("train", "validation"):
        rows = list(pairs.load(split))
        assert rows == list(pairs.load(split))
        assert all("positive" in row.responses[0] and "negative" in row.responses[1] for row in rows)
        sentences[split] = {response for row in rows for response in row.responses}
        starts[split] = {row.prompt[0].content for row in prompts.load(split)}
    assert not sentences["train"] & sentences["validation"]
    assert len(starts["train"]) + len(starts["validation"]) == 200
    assert all(any(s.startswith(start) for start in starts["validation"]) for s in sentences["validation"])
    assert not list(pairs.load("test"))


def test_prompts_of_a_script_without_spaces_start_with_its_first_characters(tmp_path):
    from configs.components import ReviewPrompts

    files = {"positive": "房间很干净，服务好\n好\n", "negative": "手机 3G 网络不好\nthe film was bad\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    source = ReviewPrompts(**{name: str(tmp_path / name) for name in files}, num_words=3, val_fraction=0.0)
    assert [row.prompt[0].content for row in source.load("train")] == ["房间很", "手机 3G", "the film was"]
