"""What a run reads beside its config is that of its first start, or the difference is named."""

import os

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.builtins.reward_functions import FunctionReward
from lightning_rlhf.builtins.templates import TokenizerTemplate
from lightning_rlhf.errors import ConfigError, ModelError
from lightning_rlhf.models import LoRA, ScalarModel
from lightning_rlhf.plugin_system.interfaces import DataSource, PromptTemplate, Segment
from lightning_rlhf.records import Demonstration, Message

DATED = (
    "Today is {{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}."
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class Edited(DataSource):
    """Rows in which one word can be another; as many as before."""

    def __init__(self, word="ab", validation="ab"):
        self.words = {"train": word, "validation": validation, "test": "ab"}

    def load(self, split):
        word = self.words[split]
        return [Demonstration((Message("user", f"say {row}\n"), Message("assistant", word))) for row in range(8)]


class FileTemplate(PromptTemplate):
    """Reads its head from outside, so that no run can hold it."""

    def render(self, messages):
        head = [Segment(os.environ["HEAD"], supervised=False)]
        return head + [Segment(message.content, supervised=message.role == "assistant") for message in messages]


@pytest.fixture
def directory(tmp_path):
    """Writes a model whose chat template, weights and config can be chosen."""

    def write(name="base", *, chat_template=DATED, seed=0, theta=10_000.0):
        _, tokenizer = TinyModel().load()
        tokenizer.chat_template = chat_template
        tokenizer.save_pretrained(tmp_path / name)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, rope_theta=theta, **sizes)
            LlamaForCausalLM(config).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def begun(kit, tmp_path):
    """Begins a run of one epoch and gives the way to go on from a checkpoint of its middle or of its end."""

    def begin(build):
        saver = {"callbacks": [kit.every_step(tmp_path / "checkpoints")], "enable_checkpointing": True}
        run = build()
        trainer = kit.fit(run, tmp_path / "begun", **saver)
        trainer.save_checkpoint(tmp_path / "checkpoints" / "end.ckpt")

        def resume(build, place="end"):
            name = "step=1.ckpt" if place == "middle" else "end.ckpt"
            run = build()
            kit.fit(run, tmp_path / "resumed", ckpt_path=tmp_path / "checkpoints" / name, max_epochs=2)
            return run

        resume.first = run
        return resume

    return begin


@pytest.mark.parametrize("place", ["middle", "end"])
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_template_goes_on_writing_the_date_of_the_first_start(kit, directory, begun, stage, place):
    base = directory()

    def build():
        return kit.stage(stage, base=base, data={"template": TokenizerTemplate()})

    resume = begun(build)
    _, data = resume(build, place)  # without a warning, which would be an error
    assert data.moment == resume.first[1].moment
    rendered = data.formatter.render_prompt([Message("user", "q")])
    assert f"Today is {data.moment:%Y-%m-%d %H:%M:%S.%f}." in rendered
    assert data.row_fingerprints == resume.first[1].row_fingerprints


def test_an_evaluation_of_a_checkpoint_reads_the_rows_with_the_date_of_its_run(kit, directory, tmp_path):
    base = directory()

    def build():
        return kit.sft(base=base, data={"template": TokenizerTemplate()})

    module, data = build()
    kit.fit((module, data), tmp_path).save_checkpoint(tmp_path / "end.ckpt")
    again = build()
    kit.trainer(tmp_path).validate(*again, ckpt_path=tmp_path / "end.ckpt", weights_only=True, verbose=False)
    assert again[1].row_fingerprints["validation"] == data.row_fingerprints["validation"]


def test_scorers_of_the_same_template_read_the_same_date(kit, directory, tmp_path):
    module, data = kit.ppo(
        base=directory(), reward_model=_reward_model(kit, directory, tmp_path), data={"template": TokenizerTemplate()}
    )
    kit.fit((module, data), tmp_path / "run")
    assert module.score_pipeline().scorers[0].formatter.moment == data.moment


def test_edited_rows_are_refused_in_the_middle_of_an_epoch_and_named_at_its_end(kit, begun):
    resume = begun(lambda: kit.sft(data={"source": Edited()}))
    with (
        pytest.warns(UserWarning, match=r"the rows of Edited, train, are not those of the run"),
        pytest.raises(ConfigError, match="got training rows 8 of fingerprint"),
    ):
        resume(lambda: kit.sft(data={"source": Edited("ba")}), "middle")
    with pytest.warns(UserWarning, match=r"the rows of Edited, train, are not those .* 8 of fingerprint .* -> 8 of"):
        resume(lambda: kit.sft(data={"source": Edited("ba")}))
    with pytest.warns(UserWarning, match=r"the rows of Edited, validation, are not those"):
        resume(lambda: kit.sft(data={"source": Edited(validation="ba")}), "middle")


def test_a_template_that_renders_otherwise_is_named(kit, directory, begun):
    base = directory()

    def build():
        return kit.ppo(base=base, data={"template": TokenizerTemplate()})

    resume = begun(build)
    directory(chat_template=DATED.replace("Today is", "Date:"))
    with (
        pytest.warns(UserWarning, match="the rows of Prompts, train, are not those"),
        pytest.warns(UserWarning, match="the rows of Prompts, validation, are not those"),
        pytest.warns(UserWarning, match="the template TokenizerTemplate renders otherwise than in the run"),
    ):
        resume(build)


def test_a_template_that_reads_something_else_is_named(kit, begun, monkeypatch):
    monkeypatch.setenv("HEAD", "a")
    resume = begun(lambda: kit.sft(data={"template": FileTemplate()}))
    monkeypatch.setenv("HEAD", "b")
    with (
        pytest.warns(UserWarning, match="the rows of Demonstrations, train, are not those"),
        pytest.warns(UserWarning, match="the template FileTemplate renders otherwise"),
        pytest.raises(ConfigError, match="got training rows"),
    ):
        resume(lambda: kit.sft(data={"template": FileTemplate()}), "middle")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, r"the frozen weights must be those .*, got others from '.*base': \d+ of \d+ differ"),
        ({"theta": 5_000.0}, r"base must be what it was when the run began, got another config in '.*base'"),
        ({"seed": 2, "theta": 1.0}, r"the frozen weights must be those .*, got others from '.*base'"),
    ],
)
def test_other_files_of_a_base_that_is_partly_frozen_are_refused(kit, directory, begun, changed, message):
    base = directory()

    def build():
        return kit.sft(base=base, adapter=LoRA(rank=2))

    resume = begun(build)
    directory(**changed)
    with pytest.raises(ModelError, match=message):
        resume(build)
    moved = directory("moved")
    resume(lambda: kit.sft(base=moved, adapter=LoRA(rank=2)))


def test_other_weights_of_a_base_that_is_trained_whole_are_named_and_change_nothing(kit, directory, begun):
    base = directory()
    resume = begun(lambda: kit.sft(base=base))
    whole = resume(lambda: kit.sft(base=base))[0].state_dict()
    directory(seed=1)
    with pytest.warns(UserWarning, match="are not those that the run began with"):
        found = resume(lambda: kit.sft(base=base))[0].state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in whole.items())


def _reward_model(kit, directory, tmp_path, name="reward", seed=5):
    kit.fit(kit.reward(base=directory(f"{name}-base", seed=seed)), tmp_path / name)
    return str(tmp_path / name / "model")


def test_another_reward_model_in_the_same_place_is_refused_and_under_another_name_taken(
    kit, directory, begun, tmp_path
):
    first = _reward_model(kit, directory, tmp_path)
    resume = begun(lambda: kit.ppo(base=directory(), reward_model=first))
    second = _reward_model(kit, directory, tmp_path, "second", seed=6)
    module, _ = resume(lambda: kit.ppo(base=directory(), reward_model=second))
    expected = ScalarModel.load(second).model.state_dict()
    assert all(torch.equal(module.reward_models[0].state_dict()[name], weight) for name, weight in expected.items())
    _reward_model(kit, directory, tmp_path, seed=6)
    with pytest.raises(ModelError, match="reward_model 1 must be what it was when the run began, got another weights"):
        resume(lambda: kit.ppo(base=directory(), reward_model=first))


def test_code_of_ones_own_that_was_edited_is_named(kit, begun, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "resumed_reward.py"
    source.write_text("def score(prompts, responses):\n    return [float(len(text)) for text in responses]\n")

    def build():
        return kit.ppo(rewards=[FunctionReward("resumed_reward:score"), kit.LowerCase()])

    resume = begun(build)
    resume(build)
    source.write_text(source.read_text().replace("float(len(text))", "-float(len(text))"))
    with pytest.warns(UserWarning, match="the code of resumed_reward was edited since the checkpoint was written"):
        resume(build)
