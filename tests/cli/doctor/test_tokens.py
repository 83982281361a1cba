import json

import pytest

from lightning_rlhf.builtins.templates import ChatMLTemplate, TokenizerTemplate
from lightning_rlhf.cli.doctor.tokens import OneBOS, PadToken, StopTokens, Vocabulary
from lightning_rlhf.plugin_system.interfaces import Segment
from lightning_rlhf.records import Demonstration, Message


def without_eos(model, tokenizer):
    tokenizer.eos_token = model.config.eos_token_id = None


def test_a_tokenizer_without_a_stop_token_fails(kit):
    result = kit.only(StopTokens(), kit.subject("sft", base=kit.Altered(without_eos)))
    assert result.status == "FAIL"
    assert "must have a stop token" in result.finding
    assert "EOS" in result.fix


def test_a_stop_string_that_is_no_token_warns(kit):
    subject = kit.subject("sft", data={"template": ChatMLTemplate()})
    passed, warned = kit.results(StopTokens(), subject)
    assert passed.finding == "a response ends at </s> (2)"
    assert warned.status == "WARN"
    assert "<|im_end|> is several tokens" in warned.finding


def test_a_stop_string_that_is_a_token_passes(kit):
    def add(model, tokenizer):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)

    subject = kit.subject("sft", base=kit.Altered(add), data={"template": ChatMLTemplate()})
    result = kit.only(StopTokens(), subject)
    assert (result.status, "<|im_end|>" in result.finding) == ("PASS", True)


def test_a_base_that_was_published_with_another_end_of_turn_warns(kit, tmp_path):
    model, tokenizer = kit.Altered().load()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 40]}))
    result = kit.results(StopTokens(), kit.subject("sft", base=str(tmp_path)))[-1]
    assert result.status == "WARN"
    assert "ending its turns with F (40)" in result.finding


@pytest.mark.parametrize(("text", "status"), [("a <new> word", "FAIL"), ("a word", "WARN")])
def test_a_token_without_an_embedding_is_found(kit, text, status):
    def add(model, tokenizer):
        tokenizer.add_tokens(["<new>"])

    record = Demonstration((Message("user", "q"), Message("assistant", text)))
    subject = kit.subject("sft", base=kit.Altered(add), data={"source": kit.Records([record])})
    result = kit.only(Vocabulary(), subject)
    assert result.status == status
    assert "259" in result.finding


def test_a_pad_token_without_an_embedding_fails(kit):
    def add(model, tokenizer):
        tokenizer.add_special_tokens({"pad_token": "<padding>"})

    result = kit.only(PadToken(), kit.subject("sft", base=kit.Altered(add)))
    assert result.status == "FAIL"
    assert "<padding> (259) has no embedding" in result.finding


@pytest.mark.parametrize("pad", ["</s>", None])
def test_a_pad_token_that_is_the_eos_and_none_at_all_pass(kit, pad):
    def change(model, tokenizer):
        tokenizer.pad_token = pad

    assert kit.statuses(PadToken(), kit.subject("sft", base=kit.Altered(change))) == ["PASS"]


@pytest.mark.parametrize("start", ["<s><s>", "\n<s>"])
def test_a_template_that_doubles_the_bos_fails(kit, segments, start):
    def write(place, message):
        first = [] if place else [Segment(start, supervised=False, control=True)]
        return [*first, *segments.plain(place, message)]

    result = kit.only(OneBOS(), kit.subject("sft", data={"template": kit.Written(write)}))
    assert result.status == "FAIL"
    assert "more than one <s> (1)" in result.finding


def test_a_template_that_writes_the_bos_once_passes(kit, segments):
    def write(place, message):
        first = [] if place else [Segment("<s>", supervised=False, control=True)]
        return [*first, *segments.plain(place, message)]

    result = kit.only(OneBOS(), kit.subject("sft", data={"template": kit.Written(write)}))
    assert (result.status, result.finding) == ("PASS", "<s> (1) first, once")


def test_a_bos_that_is_the_eos_may_stand_between_turns(kit):
    def change(model, tokenizer):
        tokenizer.bos_token = "</s>"

    assert kit.statuses(OneBOS(), kit.subject("sft", base=kit.Altered(change))) == ["PASS"]


def test_a_bos_that_begins_every_turn_passes(kit):
    def change(model, tokenizer):
        tokenizer.add_special_tokens({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
        tokenizer.chat_template = ChatMLTemplate().chat_template
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)

    for template in (ChatMLTemplate(), TokenizerTemplate()):
        result = kit.only(OneBOS(), kit.subject("sft", base=kit.Altered(change), data={"template": template}))
        assert result.status == "PASS"
        assert "<|im_start|> (259) begins every turn" in result.finding
