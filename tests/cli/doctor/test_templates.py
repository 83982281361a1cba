import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.builtins.templates import AlpacaTemplate, PlainTemplate
from lightning_rlhf.cli.doctor.templates import RoundTrip, SupervisedText, TemplateChoice, UnknownTokens
from lightning_rlhf.models import RecordedTemplate
from lightning_rlhf.plugin_system.interfaces import Segment


def test_a_template_that_prompts_otherwise_than_it_trains_fails(kit, segments):
    def write(place, message):
        thinking = message.role == "assistant" and not message.content
        return [Segment("Think! " if thinking else "", supervised=False), *segments.plain(place, message)]

    result = kit.only(RoundTrip(), kit.subject("sft", data={"template": kit.Written(write)}))
    assert result.status == "FAIL"
    assert "what generation continues is not what training saw" in result.finding
    assert "Think!" in result.finding


def test_a_tokenizer_that_loses_text_warns(kit):
    def lower(model, tokenizer):
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    result = kit.only(RoundTrip(), kit.subject("sft", base=kit.Altered(lower)))
    assert result.status == "WARN"
    assert "Which colour is the sky?" in result.finding


def test_a_template_that_supervises_the_user_fails(kit):
    def write(place, message):
        return [Segment(message.content, supervised=True)]

    result = kit.only(SupervisedText(), kit.subject("sft", data={"template": kit.Written(write)}))
    assert result.status == "FAIL"
    assert "what the user says is learned: Which colour is the sky?" in result.finding


def test_a_template_that_leaves_out_what_the_assistant_says_fails(kit):
    def write(place, message):
        learned = message.role == "assistant"
        return [Segment(message.content, supervised=False), Segment(".", supervised=learned)]

    result = kit.only(SupervisedText(), kit.subject("sft", data={"template": kit.Written(write)}))
    assert (result.status, "is not learned" in result.finding) == ("FAIL", True)


def test_a_template_without_a_supervised_turn_fails(kit):
    def write(place, message):
        return [Segment(message.content, supervised=False)]

    result = kit.only(SupervisedText(), kit.subject("sft", data={"template": kit.Written(write)}))
    assert result.status == "FAIL"


@pytest.mark.filterwarnings("ignore:the model was trained with the template")
def test_another_template_than_the_recorded_one_warns(kit):
    subject = kit.subject("sft", data={"template": PlainTemplate()})
    subject.module.recorded_template = RecordedTemplate.of(AlpacaTemplate())
    result = kit.only(TemplateChoice(), subject)
    assert result.status == "WARN"
    assert "AlpacaTemplate" in result.finding


def test_the_recorded_template_passes_whether_it_is_named_or_left_out(kit):
    for template in (None, AlpacaTemplate()):
        subject = kit.subject("sft", data={"template": template})
        subject.module.recorded_template = RecordedTemplate.of(AlpacaTemplate())
        assert kit.statuses(TemplateChoice(), subject) == ["PASS"]


def test_plain_for_a_chat_model_warns(kit):
    def chat(model, tokenizer):
        tokenizer.chat_template = "{{ messages }}"

    for template in (None, PlainTemplate()):
        result = kit.only(TemplateChoice(), kit.subject("sft", base=kit.Altered(chat), data={"template": template}))
        assert (result.status, "template tokenizer" in result.fix) == ("WARN", True)


@pytest.mark.parametrize(("known", "status"), [(["say", "abab"], "FAIL"), (None, "PASS")])
def test_a_tokenizer_that_does_not_know_the_words_fails(kit, known, status):
    words = known or ["say", *map(str, range(12)), *("ab" * n for n in range(1, 6))]
    vocabulary = {word: place for place, word in enumerate(["<unk>", "</s>", "a", *words])}

    class WordLevel(kit.Altered):
        def load(self):
            model, _ = super().load()
            backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
            backend.pre_tokenizer = pre_tokenizers.Whitespace()
            return model, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")

    result = kit.only(UnknownTokens(), kit.subject("sft", base=WordLevel()))
    assert result.status == status
