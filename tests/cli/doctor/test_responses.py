import pytest

from lightning_rlhf.cli.doctor.responses import StopRate


@pytest.mark.parametrize(
    ("stop_logit", "options", "status", "words"),
    [
        (4.5, {}, "PASS", "stop"),
        (-20.0, {}, "WARN", "0% of 24"),
        (-20.0, {"mask_unstopped": True}, "FAIL", "out of the loss"),
        (20.0, {}, "WARN", "empty"),
    ],
)
def test_a_policy_that_never_stops_or_says_nothing_is_found(kit, stop_logit, options, status, words):
    result = kit.only(StopRate(), kit.subject("ppo", base=kit.Altered(stop_logit=stop_logit), **options))
    assert result.status == status
    assert words in result.finding
