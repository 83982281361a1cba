import pytest

from lightning_rlhf.cli.doctor import memory
from lightning_rlhf.cli.doctor.memory import Memory
from lightning_rlhf.cli.prepared import Placement

STAGES = ("sft", "reward", "ppo")


@pytest.mark.parametrize("stage", STAGES)
def test_a_device_with_too_little_memory_fails_and_one_with_barely_enough_warns(kit, stage, monkeypatch):
    subject = kit.subject(stage)
    needed = memory._estimate(subject).total
    for there, status in ((needed - 1, "FAIL"), (needed + 1, "WARN"), (2 * needed, "PASS")):
        monkeypatch.setattr(memory, "available_memory", lambda device, there=there: there)
        assert kit.statuses(Memory(), subject) == [status]


def test_processes_on_one_cpu_share_its_memory(kit, monkeypatch):
    subject = kit.subject("sft", placement=Placement("ddp", "2", 1))
    needed = memory._estimate(subject).total
    monkeypatch.setattr(memory, "available_memory", lambda device: 2 * needed - 1)
    result = kit.only(Memory(), subject)
    assert (result.status, "2 processes" in result.finding) == ("FAIL", True)


def test_a_run_without_rows_is_for_another_check(kit):
    assert kit.results(Memory(), kit.subject("sft", data={"source": kit.Records([])})) == []
