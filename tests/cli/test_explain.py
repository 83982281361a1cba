from typing import Literal

import pytest

from lightning_rlhf.cli.explain import Explainer, near, without_wrapping


class Shape:
    def __init__(self, size: float = 1.0) -> None: ...


class Circle(Shape): ...


EXPLAINER = Explainer("fit", {"shape": Shape | None, "kind": Literal["a"]}, ["trainer.max_epochs", "shape"], ["a.yaml"])


def test_the_innermost_line_of_a_nested_report_is_what_is_explained():
    report = f"""Parser key "shape":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'Shape'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path '{__name__}.Circle':
        Parser key "size":
          Expected a <class 'float'>. Got value: big
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {{'class_path': 'Circle', 'init_args': {{'size': 'big'}}}}"""
    assert EXPLAINER.explain(report) == "shape.size must be float, got 'big'."


def test_all_types_of_a_union_are_named_with_the_value():
    report = """Parser key "trainer.max_epochs":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: many"""
    assert EXPLAINER.explain(report) == "trainer.max_epochs must be int or null, got 'many'."


@pytest.mark.parametrize(
    ("option", "rest"), [("sise", "Did you mean size?"), ("colour", "Its options: size.")], ids=["near", "far"]
)
def test_an_option_that_a_class_does_not_have_is_answered_with_those_that_it_has(option, rest):
    report = f"""Parser key "shape":
  Problem with given class_path '{__name__}.Circle':
    Option '{option}' is not accepted"""
    explained = EXPLAINER.explain(report)
    assert explained.startswith(f"shape: Circle must be given options that it has, got {option!r}. {rest}")


def test_an_unknown_class_lists_those_that_are_offered():
    report = 'Parser key "shape":\n  Expected a dot import path string: Cirle'
    assert EXPLAINER.explain(report) == (
        "shape must be one of Circle, or a class path, got 'Cirle'. Did you mean Circle?"
    )


def test_what_is_missing_is_named_with_what_is_offered():
    message = EXPLAINER.explain("the following arguments are required: fit.shape, fit.size")
    assert message == "shape and size must be given, got nothing. Offered: shape: Circle."


def test_a_report_that_is_not_recognised_is_shown_without_its_echo():
    report = "Something new\n  Given value: {'a': 1}\n\n  more of it"
    assert EXPLAINER.explain(report) == "Something new\n  more of it"


def test_a_file_that_is_no_mapping_is_named():
    assert EXPLAINER.explain("Unexpected config: hello") == "a.yaml must be a mapping of options, got 'hello'."


def test_near_names_are_suggested_and_far_ones_are_not():
    assert near("max_epoch", ["max_epochs", "devices"]) == " Did you mean max_epochs?"
    assert near("zzz", ["max_epochs"]) == ""


def test_what_a_constructor_raised_is_found_under_the_parsers_wrapping():
    inner = KeyError("a bug")
    outer = ValueError("Does not validate against any of the Union subtypes\nSubtypes: ...")
    outer.__cause__ = inner
    assert without_wrapping(outer) is inner
    assert without_wrapping(inner) is inner
