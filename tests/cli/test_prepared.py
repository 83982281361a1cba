import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_rlhf.cli.lightning import trainer_surroundings
from lightning_rlhf.cli.prepared import Placement, UnstartedRun, quiet_trainer
from lightning_rlhf.errors import ConfigError

WORDS = ["--model.base=tiny", "--data.source=file", "--data.source.path=rows.jsonl", "--trainer.accelerator=cpu"]


class Forbidden(Callback):
    """Only a run that starts needs its callbacks."""

    def __init__(self) -> None:
        raise AssertionError("a run that is looked at must not build its callbacks")


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    Path("rows.jsonl").write_text('{"prompt": "q", "response": "a"}\n')

    def build(*words: str, stage: str | None = "sft"):
        with trainer_surroundings(), quiet_trainer():
            return UnstartedRun([*words, *WORDS], stage).build()

    return build


def test_a_prepared_run_is_attached_and_in_the_runs_precision(prepare):
    run = prepare("--trainer.precision=bf16-true", "--trainer.accumulate_grad_batches=3")
    assert run.data.formatter.tokenizer is run.module.tokenizer
    assert {str(weight.dtype) for weight in run.module.parameters()} == {"torch.bfloat16"}
    assert run.module.loss_scale == 3


def test_where_the_run_would_be_is_kept_and_one_process_looks_at_it(prepare):
    run = prepare("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.num_nodes=2")
    assert run.placement == Placement("ddp", "2", 2)
    assert isinstance(run.trainer.strategy, SingleDeviceStrategy)
    run = prepare("--trainer.strategy=ModelParallelStrategy")
    assert run.placement.strategy == "ModelParallelStrategy"


def test_nothing_that_only_a_running_trainer_needs_is_built_and_no_directory_made(prepare):
    words = ["--trainer.callbacks+=test_prepared.Forbidden", "--trainer.default_root_dir=run"]
    words += ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs", "--trainer.profiler=simple"]
    run = prepare(*words)
    assert run.trainer.loggers == []
    assert [path.name for path in Path().iterdir()] == ["rows.jsonl"]


def test_a_checkpoint_is_refused_with_what_to_name_instead(prepare):
    with pytest.raises(ConfigError, match="name its `model` directory as base"):
        prepare("--ckpt_path=last")


def test_the_stage_must_be_the_configs(prepare):
    words = ["--model=SFTModule", "--data=DemonstrationData"]
    assert prepare(*words, stage=None).module.stage == "sft"
    with pytest.raises(ConfigError, match="got --stage reward for a config of SFTModule"):
        prepare(*words, stage="reward")
