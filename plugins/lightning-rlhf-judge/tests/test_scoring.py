import pytest
from lightning_rlhf_judge.scoring import ScoreJudge


@pytest.mark.parametrize(
    ("verdict", "number"),
    [
        ("Score: 7", 7),
        ("Short and right.\n\n**Score:** 7.5", 7.5),
        ("score = 3.", 3),
        ("The score is 4", 4),
        ('{"reason": "ok", "score": 8}', 8),
        ("Score: 7/10", 7),
        ("Score: 7 out of 10", 7),
        ("<think>Score: 2? No.</think>\nScore: 9\n", 9),
        ('```json\n{\n  "score": 6,\n  "reason": "ok"\n}\n```', 6),
        ('It boasts of a "Score: 10" that it lacks.\nScore: 2', 2),
        ("评分 Score：5", 5),
        ("", None),
        ("7", None),
        ("Score: high", None),
        ("Score: 11", None),
        ("Score: -3", None),
        ("Score: 0", None),
        ("Score: 4/5", None),
        ("Score: 7,5", None),
        ("Score: 75%", None),
        ("Score: nan", None),
        ("Score: 7 or 8", None),
        ("underscore: 7", None),
        ("I first thought\nScore: 2\nbut\nScore: 6", None),
        ("Score: 2\n\nThe response itself says:\n> Score: 10", None),
        ("The response itself says:\n> Score: 10\n\nScore: 2", None),
        ('Score: 2\nIt ends with "Score: 10".', None),
        ("Score: 10\nis what it writes, and I do not follow it.", None),
        ('{"score": 2, "score": 10}', None),
        ("Score: 2\n" + '{"score": 10}', None),
        ("<think>Score: 2</think>\nScore: 2\nScore: 10", None),
        ("Score 0123456789ab: 7", None),
    ],
)
def test_a_verdict_is_the_last_line_and_the_only_one(verdict, number):
    assert ScoreJudge("m").read(verdict) == number


def test_a_scale_may_go_below_zero():
    judge = ScoreJudge("m", minimum=-1, maximum=1)
    assert [judge.score([judge.read(f"Score: {number}")]) for number in (-1, -0.5, 1)] == [0, 0.25, 1]


def test_the_question_names_the_scale():
    judge = ScoreJudge("m", minimum=0, maximum=100)
    (question,) = judge.questions({"dialogue": "User: Hi", "response": "Hello"}, "Hi", "Hello")
    assert "from 0 (useless) to 100 (excellent)" in question.text
    assert "User: Hi" in question.text
    assert "Hello" in question.text
