import os

import pytest
from lightning_rlhf_compat.loading import load_function

from lightning_rlhf.errors import ConfigError


def test_a_file_is_executed_once_and_its_classes_can_be_found(write):
    path = write(
        """
        from __future__ import annotations

        import pickle
        from dataclasses import dataclass

        @dataclass
        class Rule:
            word: str

        def reward(): return pickle.loads(pickle.dumps(Rule("a")))
        def other(): return Rule
        """
    )
    made = load_function(path)()
    assert type(made) is load_function(path.replace("reward", "other").replace("others", "rewards"))()


def test_a_file_does_not_hide_a_module_of_the_same_name(write):
    write("def reward(): return 1", file="json.py")
    assert load_function("json.py:reward")() == 1
    assert load_function("json:dumps")([]) == "[]"


def test_a_file_that_has_changed_within_a_second_is_executed_again(write):
    for number in (1, 2):
        path = write(f"def reward(): return {number}")
        os.utime(path.partition(":")[0], (1, 1))
        assert load_function(path)() == number


def test_dots_lead_into_a_module_or_class(write):
    path = write("class Group:\n    @staticmethod\n    def inner(): return 2\n", name="Group.inner")
    assert load_function(path)() == 2


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("rewards.py", "must be 'module:name' or 'path/to/file.py:name', got 'rewards.py'"),
        (":reward", "must be 'module:name'"),
        ("nowhere.py:reward", "must exist, got 'nowhere.py:reward': there is no /"),
        ("no_such_module_here:f", "must be importable, got 'no_such_module_here:f' .ModuleNotFoundError"),
        ("rewards.py:rewar", "must name one of rewards.py, got 'rewar'. Did you mean 'reward'?"),
        ("rewards.py:zzz", "got 'zzz'.$"),
        ("rewards.py:Group", "must name a function, got <class .*name an instance"),
        ("rewards.py:number", "must name a function, got 3"),
    ],
)
def test_a_path_that_names_no_function_is_refused(write, path, rule):
    write("def reward(): return 1\nclass Group: pass\nnumber = 3\n")
    with pytest.raises(ConfigError, match=rule):
        load_function(path)


@pytest.mark.parametrize("fault", ["1 / 0", "import openrlhf_that_is_not_here", "raise SystemExit(0)", "def"])
def test_a_file_that_cannot_be_executed_is_refused_with_its_reason_each_time(write, fault):
    path = write(fault)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"must be importable, got 'rewards.py:reward' \(\w+"):
            load_function(path)


@pytest.mark.parametrize("path", ["os:system", "subprocess:check_output", "glob:os.system"])
def test_what_reaches_into_the_system_is_refused(path):
    with pytest.raises(ConfigError, match="must not reach into the system"):
        load_function(path)
