import json

import pytest

from lightning_rlhf.errors import ModelError, TemplateError
from lightning_rlhf.models import RecordedTemplate, read_recorded_template
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, Segment


class Framed(PromptTemplate):
    stop = ("<end>",)

    def __init__(self, frame: str = "|", depths: tuple[int, ...] = (1,)) -> None:
        self.frame = frame
        self.depths = depths

    def render(self, messages):
        return [Segment(self.frame + message.content, message.role == "assistant") for message in messages]


class Forgetful(Framed):
    def __init__(self, width: int) -> None:
        super().__init__()


def test_a_record_of_a_template_makes_it_again(monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules, "framed_templates", __import__("types").ModuleType("framed_templates")
    )
    __import__("sys").modules["framed_templates"].Framed = Framed
    monkeypatch.setattr(Framed, "__module__", "framed_templates")
    record = RecordedTemplate.of(Framed("#"))
    assert record.class_path == "framed_templates.Framed"
    assert record.init_args == {"frame": "#"}
    assert record.stop == ("<end>",)
    again = RecordedTemplate.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record
    assert again.create().frame == "#"


def test_a_template_that_forgets_an_argument_is_refused():
    with pytest.raises(TemplateError, match="'width' as an attribute"):
        RecordedTemplate.of(Forgetful(3))


@pytest.mark.parametrize(("value", "kind"), [({1}, "set"), (print, "builtin_function_or_method"), ((1, {2}), "tuple")])
def test_an_argument_that_json_cannot_hold_is_refused_with_its_type(value, kind):
    with pytest.raises(TemplateError, match=f"template Framed must keep its argument 'depths' .* got {kind}"):
        RecordedTemplate.of(Framed(depths=value))
    assert RecordedTemplate.of(Framed(depths=(1, 2))).init_args == {"depths": [1, 2]}


def test_nothing_but_templates_is_called():
    with pytest.raises(TemplateError, match="must be a PromptTemplate"):
        RecordedTemplate("os.system", {"command": "exit 1"}).create()


@pytest.mark.parametrize("path", ["no_such_package.Template", "json.NoSuchName", "NoModule"])
def test_a_class_that_is_not_there_names_its_distribution(path):
    with pytest.raises(TemplateError, match=r"recorded: some-plugin 1\.2"):
        RecordedTemplate(path, provenance={"some-plugin": "1.2"}).create()


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(TemplateError, match="accept its arguments"):
        RecordedTemplate("lightning_rlhf.builtins.templates.ChatMLTemplate", {"colour": "red"}).create()


def test_a_directory_without_a_record_has_none(tmp_path):
    assert read_recorded_template(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"template": 3}'])
def test_a_broken_record_is_an_error(text, tmp_path):
    (tmp_path / "rlhf.json").write_text(text)
    with pytest.raises(ModelError, match=r"rlhf\.json"):
        read_recorded_template(tmp_path)
