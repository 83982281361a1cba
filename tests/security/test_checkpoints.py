"""A checkpoint that somebody else has made."""

import io
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy

from lightning_rlhf.checkpoints.foreign import check_sharded
from lightning_rlhf.checkpoints.strategies import prepare_strategy
from lightning_rlhf.errors import ConfigError, ModelError
from lightning_rlhf.modules import PPOModule, SFTModule

# Lightning makes the module with a function of jsonargparse that is on its way out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL = {"class_path": "lightning_rlhf.registry.model.tiny", "init_args": {"hidden_size": 16, "num_layers": 1}}
FUNCTION = "lightning_rlhf.registry.reward_function.function"


@pytest.fixture(scope="module")
def module() -> SFTModule:
    from lightning_rlhf.builtins.models import TinyModel

    return SFTModule(TinyModel(hidden_size=16, num_layers=1), learning_rate=0.5)


@pytest.fixture
def write(module, tmp_path):
    """`write(extra=..., **arguments)`: a checkpoint with these arguments, as the command line saves them."""

    def write(extra=None, **arguments):
        checkpoint = {
            "state_dict": module.state_dict(),
            "pytorch-lightning_version": "2.6.6",
            "hyper_parameters": {
                "base": SMALL,
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
                **arguments,
            },
            "lightning_rlhf": {"stage": "sft", "seed": 0},
            "extra": extra,
        }
        torch.save(checkpoint, tmp_path / "foreign.ckpt")
        return tmp_path / "foreign.ckpt"

    return write


class TestFiles:
    def test_a_harmless_one_loads(self, write, module):
        path = write()
        for source in (path, str(path), io.BytesIO(path.read_bytes())):
            loaded = SFTModule.load_from_checkpoint(source)
            assert torch.equal(loaded.state_dict()["model.model.lm_head.weight"], module.model.model.lm_head.weight)

    @pytest.mark.parametrize("weights_only", [True, None])
    def test_pickled_code_is_refused(self, write, payload, weights_only):
        with pytest.raises(ModelError, match="must hold tensors and plain values"):
            SFTModule.load_from_checkpoint(write(extra=payload), weights_only=weights_only)

    def test_it_runs_where_it_is_asked_for(self, write, payload):
        SFTModule.load_from_checkpoint(write(extra=payload), weights_only=False)
        assert payload.ran
        payload.mark.unlink()

    def test_a_url_is_loaded_like_a_file(self, write, payload, monkeypatch):
        """Lightning's own default for a URL is to unpickle it."""
        path = write(extra=payload)
        monkeypatch.setattr(
            torch.hub, "load_state_dict_from_url", lambda url, **options: torch.load(path, **options), raising=True
        )
        with pytest.raises(ModelError, match="must hold tensors and plain values"):
            SFTModule.load_from_checkpoint("https://nowhere.invalid/foreign.ckpt")


class TestArguments:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"base": "evil_module.Model"},
            {"base": {"class_path": "evil_module.Model"}},
            {"adapter": {"class_path": "evil_module.LoRA"}},
            {"adapter": {"class_path": "lightning_rlhf.LoRA", "init_args": {"target_modules": ["evil_module.x"]}}},
            {"rewards": [{"class_path": FUNCTION, "init_args": {"path": "evil_module:score"}}]},
            {"rewards": ["evil_module.Reward"]},
            {"base": "{class_path: evil_module.Model}"},
            {"rewards": "- class_path: evil_module.Reward"},
        ],
    )
    def test_a_module_that_they_name_is_not_imported(self, write, payload, evil_module, arguments):
        with pytest.raises(ModelError, match="must name what is imported already, got 'evil_module"):
            SFTModule.load_from_checkpoint(write(**arguments))
        with pytest.raises(ModelError, match="Import evil_module first if you trust it, or give the argument anew"):
            PPOModule.load_from_checkpoint(write(**arguments))

    @pytest.mark.parametrize("place", ["hparams", "module_arguments"])
    def test_nor_one_that_stands_where_old_versions_kept_arguments(self, write, payload, evil_module, tmp_path, place):
        checkpoint = torch.load(write(), weights_only=True)
        torch.save({**checkpoint, place: {"adapter": {"class_path": "evil_module.LoRA"}}}, tmp_path / "old.ckpt")
        with pytest.raises(ModelError, match="must name what is imported already, got 'evil_module"):
            SFTModule.load_from_checkpoint(tmp_path / "old.ckpt")

    @pytest.mark.parametrize("argument", ["base", "adapter"])
    def test_a_file_that_they_name_is_not_read_as_a_config(self, write, payload, evil_module, tmp_path, argument):
        (tmp_path / "model.gguf").write_text("class_path: evil_module.Model\n")
        with pytest.raises(Exception, match=r"model\.gguf"):
            SFTModule.load_from_checkpoint(write(**{argument: f"{tmp_path}/model.gguf"}))

    def test_neither_is_a_file(self, write, payload, tmp_path):
        (tmp_path / "evil.py").write_text(payload.source)
        with pytest.raises(ModelError, match=r"got '.*evil\.py:score'"):
            SFTModule.load_from_checkpoint(write(rewards=[{"init_args": {"path": f"{tmp_path}/evil.py:score"}}]))

    def test_lightning_lets_no_other_function_and_no_unknown_class_make_the_module(self, write, payload, evil_module):
        for name, value in (("_instantiator", f"{evil_module}.make"), ("_class_path", f"{evil_module}.Module")):
            with pytest.raises(ValueError, match="blocked to prevent arbitrary code execution"):
                SFTModule.load_from_checkpoint(write(**{name: value}))

    def test_code_of_the_hub_is_not_asked_for_by_a_checkpoint(self, write):
        with pytest.raises(ModelError, match="must not run a model's own code, got trust_remote_code"):
            SFTModule.load_from_checkpoint(write(trust_remote_code=True))
        assert SFTModule.load_from_checkpoint(write(trust_remote_code=True), trust_remote_code=False)

    def test_what_is_imported_already_may_be_named(self, write, tmp_path, monkeypatch):
        (tmp_path / "my_models.py").write_text(
            "from lightning_rlhf.builtins.models import TinyModel\nclass Mine(TinyModel):\n    pass\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        path = write(base={"class_path": "my_models.Mine", "init_args": SMALL["init_args"]})
        with pytest.raises(ModelError, match="Import my_models first"):
            SFTModule.load_from_checkpoint(path)
        __import__("my_models")
        try:
            SFTModule.load_from_checkpoint(path)
        finally:
            del sys.modules["my_models"]

    def test_what_the_caller_gives_anew_is_not_looked_at(self, write, module, payload, evil_module):
        path = write(base=f"{evil_module}.Model")
        SFTModule.load_from_checkpoint(path, base=SMALL)


class TestShardedOnes:
    """A folder: `.metadata`, which torch unpickles as it stands, and files of tensors and pickled values."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        state = {"weight": torch.ones(3), "optimizer": {"lr": 0.1, "name": "policy", "betas": (0.9, 0.95)}}
        with pytest.warns(UserWarning, match="single process"):
            dcp.save(state, checkpoint_id=tmp_path / "sharded", no_dist=True)
        return tmp_path / "sharded"

    def test_a_harmless_one_passes(self, folder, tmp_path):
        check_sharded(folder)
        check_sharded(tmp_path / "not there")
        check_sharded(folder / "__0_0.distcp")

    def test_code_in_the_metadata_is_refused(self, folder, payload):
        (folder / ".metadata").write_bytes(pickle.dumps(payload))
        with pytest.raises(ModelError, match=r"it names pathlib\.Path\.touch|it names (builtins|pathlib)"):
            check_sharded(folder)

    def test_code_in_a_value_is_refused(self, tmp_path, payload):
        with pytest.warns(UserWarning, match="single process"):
            dcp.save({"weight": torch.ones(3), "lr": payload}, checkpoint_id=tmp_path / "sharded", no_dist=True)
        with pytest.raises(ModelError, match="must hold tensors and plain values"):
            check_sharded(tmp_path / "sharded")

    def test_a_file_outside_of_the_folder_is_refused(self, folder, tmp_path):
        (folder / "__0_0.distcp").rename(tmp_path / "outside")
        metadata = (folder / ".metadata").read_bytes()
        assert b"__0_0.distcp" in metadata
        (folder / ".metadata").write_bytes(metadata.replace(b"\x0c__0_0.distcp", b"\x0a../outside"))
        with pytest.raises(ModelError, match="outside"):
            check_sharded(folder)

    def test_the_strategy_looks_before_it_loads(self, folder, payload):
        strategy = ModelParallelStrategy()
        prepare_strategy(strategy)
        prepare_strategy(strategy)
        torch.save({}, folder / "meta.pt")
        (folder / ".metadata").write_bytes(pickle.dumps(payload))
        with pytest.raises(ModelError, match="a sharded checkpoint must hold tensors"):
            strategy.load_checkpoint(folder)

    def test_another_strategy_says_that_it_cannot_load_it(self, folder):
        strategy = SingleDeviceStrategy()
        prepare_strategy(strategy)
        with pytest.raises(ConfigError, match="must be ModelParallelStrategy to load the sharded checkpoint"):
            strategy.load_checkpoint(folder)


@pytest.mark.parametrize(("asked", "given"), [(None, True), (True, True), (False, False)])
def test_the_trainer_unpickles_what_it_is_told_to(write, payload, monkeypatch, asked, given):
    """Of a URL, too, of which Lightning unpickles whatever stands there unless it is told not to."""
    strategy = SingleDeviceStrategy()
    asked_for = []
    strategy.load_checkpoint = lambda path, weights_only=None: asked_for.append(weights_only)
    prepare_strategy(strategy)
    strategy.load_checkpoint("https://nowhere.invalid/foreign.ckpt", weights_only=asked)
    assert asked_for == [given]
