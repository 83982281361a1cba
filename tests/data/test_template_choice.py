import warnings

import pytest

from lightning_rlhf.builtins.templates import ChatMLTemplate, PlainTemplate
from lightning_rlhf.data import DemonstrationData, PromptFormatter, choose_template, record_of
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.models import RecordedTemplate
from lightning_rlhf.plugin_system.interfaces import PromptTemplate

CHATML = RecordedTemplate("lightning_rlhf.builtins.templates.ChatMLTemplate")


def test_a_model_without_a_record_gets_the_given_template_or_plain(fakes, simple_tokenizer):
    given = fakes.JoinedTemplate()
    assert choose_template(given, None, simple_tokenizer) is given
    assert isinstance(choose_template(None, None, simple_tokenizer), PlainTemplate)


def test_the_recorded_template_is_the_default(simple_tokenizer):
    assert isinstance(choose_template(None, CHATML, simple_tokenizer), ChatMLTemplate)


def test_a_template_that_renders_alike_does_not_warn(simple_tokenizer):
    class Renamed(ChatMLTemplate):
        pass

    given = Renamed()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_template(given, CHATML, simple_tokenizer) is given


def test_a_template_that_renders_otherwise_warns(fakes, simple_tokenizer):
    given = fakes.JoinedTemplate()
    with pytest.warns(UserWarning, match="was trained with the template .*ChatMLTemplate, and this run uses Joined"):
        assert choose_template(given, CHATML, simple_tokenizer) is given


def test_a_recorded_template_that_is_not_installed_is_an_error_unless_another_is_given(fakes, simple_tokenizer):
    gone = RecordedTemplate("no_such_plugin.Template")
    with pytest.raises(TemplateError, match="no_such_plugin"):
        choose_template(None, gone, simple_tokenizer)
    with pytest.warns(UserWarning, match="no_such_plugin"):
        choose_template(fakes.JoinedTemplate(), gone, simple_tokenizer)


def test_a_record_creates_the_same_template_again():
    record = record_of(ChatMLTemplate())
    assert record is not None
    again = record.create()
    assert type(again) is ChatMLTemplate
    assert record_of(again) == record
    assert record.stop == ChatMLTemplate.stop


def test_arguments_that_are_kept_as_attributes_are_recorded(fakes):
    record = record_of(fakes.MarkedTemplate(bos="<s>"))
    assert record is not None
    assert record.init_args == {"bos": "<s>"}


def test_a_template_that_does_not_keep_its_arguments_is_not_recorded(fakes, caplog):
    class Forgetful(fakes.JoinedTemplate):
        def __init__(self, name: str) -> None:
            assert name

    caplog.set_level("INFO")
    assert record_of(Forgetful("x")) is None
    assert "must keep its argument 'name'" in caplog.text


def test_an_argument_that_json_cannot_hold_is_said_before_a_model_is_written(fakes, caplog):
    template = fakes.MarkedTemplate()
    template.bos = {"<s>"}  # what a record would be made of
    caplog.set_level("INFO")
    assert record_of(template) is None
    assert "must keep its argument 'bos' as an attribute that JSON can hold, got set" in caplog.text


def test_the_formatter_records_the_template_before_it_was_bound(fakes, simple_tokenizer):
    class Bindable(fakes.JoinedTemplate):
        def bind(self, tokenizer) -> PromptTemplate:
            return fakes.MarkedTemplate()

    formatter = PromptFormatter(Bindable(), simple_tokenizer)
    assert isinstance(formatter.template, fakes.MarkedTemplate)
    assert formatter.record is not None
    assert formatter.record.class_path.endswith("Bindable")


def test_a_data_module_takes_the_models_template(fakes, simple_tokenizer, trainer):
    model = fakes.TinyModule(simple_tokenizer)
    model.recorded_template = CHATML
    data = DemonstrationData(fakes.ListSource())
    run = trainer()
    run.strategy._lightning_module = model
    data.trainer = run
    assert isinstance(data.formatter.template, ChatMLTemplate)
    assert data.formatter is data.formatter
