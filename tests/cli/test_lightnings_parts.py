"""Lightning's own parts, given to a fit of the stand-in: each trains, or is refused in one message."""

import os

import pytest
import torch
from lightning.pytorch import callbacks, strategies

NEEDED = {  # what a callback cannot do without
    "EarlyStopping": ["monitor=val/loss"],
    "GradientAccumulationScheduler": ["scheduling={0: 2}"],
    "ModelPruning": ["pruning_fn=l1_unstructured"],
    "OnExceptionCheckpoint": ["dirpath=."],
    "StochasticWeightAveraging": ["swa_lrs=0.01"],
    "ThroughputMonitor": ["batch_size_fn=len"],
}
PLUGINS = {
    "BitsandbytesPrecision": ["mode=nf4"],
    "HalfPrecision": ["precision=bf16-true"],
    "MixedPrecision": ["precision=bf16-mixed", "device=cpu"],
    "TransformerEnginePrecision": ["weights_dtype=torch.bfloat16"],
}
BARE_PLUGINS = (
    *("AsyncCheckpointIO", "DoublePrecision", "Precision", "TorchCheckpointIO", "TorchSyncBatchNorm"),
    *("XLACheckpointIO", "XLAPrecision", "XLAEnvironment", "LSFEnvironment", "MPIEnvironment"),
    *("LightningEnvironment", "SLURMEnvironment", "TorchElasticEnvironment"),
)


@pytest.fixture
def alone(monkeypatch):
    """Process groups and their variables end with the test."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in set(os.environ) - set(before):
        del os.environ[name]


def cases():
    for name in callbacks.__all__:
        yield [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{word}" for word in NEEDED.get(name, []))]
    for name in (*PLUGINS, *BARE_PLUGINS):
        yield [f"--trainer.plugins={name}", *(f"--trainer.plugins.{word}" for word in PLUGINS.get(name, []))]
    for name in strategies.__all__:
        yield [f"--trainer.strategy={name}"]
    for name in ("deepspeed", "fsdp", "xla", "single_xla", "single_device", "nope"):
        yield [f"--trainer.strategy={name}"]
    for size in ("data_parallel_size=2", "tensor_parallel_size=2"):
        yield ["--trainer.strategy=ModelParallelStrategy", f"--trainer.strategy.{size}"]
    for accelerator in ("cuda", "tpu", "mps"):
        yield [f"--trainer.accelerator={accelerator}"]
    yield ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x", "--trainer.callbacks.mode=x"]


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("words", list(cases()), ids=lambda words: " ".join(words).replace("--trainer.", ""))
def test_a_part_of_lightnings_trains_or_is_refused_in_one_message(command, capsys, alone, words):
    status = command("fit", "--trainer.max_steps=2", *words)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lightning-rlhf: error: ")]
    diverged = any("SpikeDetection" in word for word in words)  # what it looks for it may find
    assert (status, len(errors)) in {(0, 0), (3 if diverged else 2, 1)}
    assert not any(line.endswith(": ") for line in errors)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.strategy=ModelParallelStrategy", "--trainer.strategy.data_parallel_size=2"], "world size (1)"),
        (["--trainer.plugins=BitsandbytesPrecision", "--trainer.plugins.mode=nf4"], "'bitsandbytes' not met"),
        (["--trainer.plugins=XLACheckpointIO"], "error: what the config names must be installed and work on this"),
        (["--trainer.callbacks+=BaseFinetuning"], "must fit the stage and its data: NotImplementedError"),
    ],
)
def test_what_a_part_lacks_is_named(command, capsys, alone, words, message):
    assert command("fit", *words) == 2
    assert message in capsys.readouterr().err
