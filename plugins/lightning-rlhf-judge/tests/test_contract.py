from typing import ClassVar

import pytest

from lightning_rlhf.testing import RewardFunctionContract


class TestJudgeScore(RewardFunctionContract):
    component = "judge_score"

    @pytest.fixture(autouse=True)
    def _endpoint(self, class_judge, monkeypatch):
        monkeypatch.setattr(type(self), "init_args", {"model": "m", "base_url": class_judge.base_url, "cache": None})


class TestJudgeCompareWithAColumn(RewardFunctionContract):
    component = "judge_compare"
    columns: ClassVar = {"answer": "I do not know."}

    @pytest.fixture(autouse=True)
    def _endpoint(self, class_judge, monkeypatch, tmp_path):
        verdicts = ("A", "B", "tie")
        class_judge.script = [lambda body: f"Verdict: {verdicts[len(body['messages'][0]['content']) % 3]}"]
        cache = str(tmp_path / "cache" / "verdicts.sqlite")
        arguments = {"model": "m", "base_url": class_judge.base_url, "cache": cache, "baseline_column": "answer"}
        monkeypatch.setattr(type(self), "init_args", arguments)
