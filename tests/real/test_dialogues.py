"""Dialogues of many turns: what of them is supervised, token by token, and that it is learned."""

import re
from itertools import groupby, pairwise

import lightning as L
import pytest

pytestmark = pytest.mark.real

KDCONV = "dialogue/kdconv_film.jsonl.gz"
THREADS = "dialogue/oasst_seed_threads_en.jsonl"
FILES = {"KdConvDialogues": KDCONV, "OasstThreads": THREADS}


@pytest.fixture
def dialogues(data):
    import configs.components

    def load(name):
        return list(getattr(configs.components, name)(str(data / FILES[name]), val_fraction=0.0).load("train"))

    return load


@pytest.fixture
def formatter(base):
    from transformers import AutoTokenizer

    from lightning_rlhf.builtins import templates
    from lightning_rlhf.data import PromptFormatter

    def build(template):
        return PromptFormatter(getattr(templates, template)(), AutoTokenizer.from_pretrained(base))

    return build


def spelled(tokenizer, ids):
    """The text of ids by SentencePiece's definition: pieces with a mark for a space, and bytes."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    as_bytes = (
        bytes([int(piece[3:5], 16)])
        if re.fullmatch("<0x[0-9A-F]{2}>", piece)
        else piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
        for piece in pieces
    )
    return b"".join(as_bytes).decode()


def runs(ids, supervised):
    """The runs of neighbouring ids that are supervised."""
    pairs = zip(ids, supervised, strict=True)
    return [[index for index, _ in run] for learned, run in groupby(pairs, key=lambda pair: pair[1]) if learned]


def assistant_turns(dialogue):
    return [message.content for message in dialogue.messages if message.role == "assistant"]


def test_turns_without_roles_alternate_between_user_and_assistant(dialogues, rows):
    found, expected = dialogues("KdConvDialogues"), rows(KDCONV)
    said = [[message.content for message in dialogue.messages] for dialogue in found]
    assert said == [[turn["message"] for turn in row["messages"]] for row in expected]
    for dialogue in found:
        assert [message.role for message in dialogue.messages] == ["user", "assistant"] * (len(dialogue.messages) // 2)
    assert max(len(dialogue.messages) for dialogue in found) > 20


def test_every_last_message_ends_one_thread_that_goes_back_to_a_first_one(dialogues, rows):
    messages = {row["user_message_id"]: row for row in rows(THREADS)}
    parents = {row["user_message_id"]: row["parent_message_id"] for row in messages.values()}
    threads = dialogues("OasstThreads")
    assert len(threads) == len(messages.keys() - set(parents.values()))
    firsts = {messages[name]["text"] for name, parent in parents.items() if parent is None}
    assert {thread.messages[0].content for thread in threads} == firsts
    followed = {(messages[parent]["text"], messages[name]["text"]) for name, parent in parents.items() if parent}
    for thread in threads:
        assert {pair[0].content: pair[1].content for pair in pairwise(thread.messages)}.items() <= followed
    roles = {"".join(message.role[0] for message in thread.messages) for thread in threads}
    assert all(re.fullmatch("(ua+)+", initials) for initials in roles)
    assert any("aa" in initials for initials in roles)  # somebody went on where the assistant had answered


@pytest.mark.parametrize("template", ["HumanAssistantTemplate", "AlpacaTemplate", "PlainTemplate"])
@pytest.mark.parametrize("name", FILES)
def test_exactly_the_assistants_turns_and_the_stop_after_each_are_supervised(dialogues, formatter, name, template):
    formatter = formatter(template)
    tokenizer = formatter.tokenizer
    for dialogue in dialogues(name):
        ids, supervised = formatter.encode(dialogue.messages)
        turns = runs(ids, supervised)
        assert [run[-1] for run in turns] == [tokenizer.eos_token_id] * len(turns)
        assert [spelled(tokenizer, run[:-1]) for run in turns] == assistant_turns(dialogue)


@pytest.mark.parametrize("template", ["HumanAssistantTemplate", "AlpacaTemplate", "PlainTemplate"])
@pytest.mark.parametrize("name", FILES)
def test_the_ids_of_a_dialogue_spell_its_rendered_text(dialogues, formatter, name, template):
    formatter = formatter(template)
    tokenizer = formatter.tokenizer
    for dialogue in dialogues(name):
        ids = formatter.encode(dialogue.messages).ids
        text = "".join(segment.text for segment in formatter.template.render(dialogue.messages))
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids  # Chinese is spelled in bytes
        inner = [index for index in ids[1:] if index != tokenizer.eos_token_id]
        assert spelled(tokenizer, inner) == f" {text}"  # one dummy prefix, at the very start
        assert tokenizer.decode(inner) == text
        *before, last = dialogue.messages
        assert formatter.encode_prompt(before) + formatter.encode_response(before, last.content) == ids


class FirstBatch(L.Callback):
    """Keeps the first batch that is learned."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = batch


def test_what_the_loss_reads_is_what_the_assistants_said(dialogues, data, base):
    from configs.components import OasstThreads
    from lightning_rlhf import DemonstrationData, SFTModule
    from lightning_rlhf.builtins.templates import HumanAssistantTemplate

    L.seed_everything(1, verbose=False)
    module, kept = SFTModule(base, learning_rate=1e-3), FirstBatch()
    source = OasstThreads(str(data / THREADS), val_fraction=0.0)
    rows = DemonstrationData(source, template=HumanAssistantTemplate(), batch_size=16, max_length=512)
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    L.Trainer(accelerator="cpu", max_steps=1, callbacks=[kept], **quiet).fit(module, rows)
    assert rows.tallies["train"].num_rows == len(dialogues("OasstThreads"))

    said = [assistant_turns(dialogue) for dialogue in dialogues("OasstThreads")]
    labels = kept.batch.labels
    whole = 0
    for row, ids in zip(labels, kept.batch.tokens.input_ids, strict=True):
        supervised = row != -100
        assert (row[supervised] == ids[supervised]).all()
        turns = [spelled(module.tokenizer, run[:-1]) for run in runs(ids.tolist(), supervised.tolist()) if run[-1] == 2]
        whole += turns in said
    assert whole >= 12  # the others are longer than the model's positions
    assert int(kept.batch.num_targets) == int((labels != -100).sum())


@pytest.mark.parametrize(("config", "file"), [("sft/kdconv.yaml", KDCONV), ("sft/oasst.yaml", THREADS)])
def test_dialogues_are_learned(fit, few_steps, data, dialogues, config, file):
    options = {"data.source.path": data / file, "model.max_response_length": 8, "data.truncation": "window"}
    run = fit(config, **few_steps, **options)
    name = next(name for name in FILES if FILES[name] == file)
    num_rows = re.findall(r"train: (\d+) rows", run.report)[0]
    assert int(num_rows) > len(dialogues(name))  # a dialogue is longer than a row, and becomes several
    assert "100.0% of" in run.report
    run.assert_learned()
