"""Will it fit? Weights are counted, activations measured on a row and scaled to a batch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.data import DemonstrationData, RankingData
from lightning_rlhf.data.collation import collate_demonstrations, collate_rankings
from lightning_rlhf.modules import PPOModule
from lightning_rlhf.rollout import policy_outputs, response_rows

__all__ = ["Estimate", "Memory", "available_memory", "saved_bytes"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_TIGHT = 0.7
"""Allocators keep freed memory: a process was measured to take 1.4 times the estimate."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on one device.

    Args:
        weights: of all models, frozen ones included.
        gradients: of the trained weights; under DDP its buckets as well.
        optimizer: AdamW's two moments.
        activations: of one training step, up to its backward pass; or the key-value cache of sampling if that is more.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.optimizer + self.activations


class Memory(Check):
    """What a training step needs is less than what the device has."""

    name = "memory"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        if not subject.sample.rows:
            return
        device, placement = subject.module.device, subject.run.placement
        estimate = _estimate(subject)
        num_processes = 1 if device.type != "cpu" else _num_devices(placement.devices)
        needed, there = estimate.total * num_processes, available_memory(device)
        parts = ("weights", "gradients", "optimizer", "activations")
        facts = (
            f"about {_shown(needed)} of the {_shown(there)} that {device.type} has: "
            + ", ".join(f"{name} {_shown(getattr(estimate, name))}" for name in parts)
            + (f", in each of {num_processes} processes" if num_processes > 1 else "")
        )
        size = "minibatch_size" if subject.stage == "ppo" else "batch_size"
        fix = (
            f"Lower {size} and raise trainer.accumulate_grad_batches; set gradient_checkpointing; train an adapter; "
            "use trainer.precision bf16-true; or shard over devices with ModelParallelStrategy."
        )
        if needed > there:
            yield self.failed(facts, fix)
        elif needed > _TIGHT * there:
            yield self.warned(facts, fix)
        else:
            yield self.passed(facts)


def _estimate(subject: Subject) -> Estimate:
    module, placement = subject.module, subject.run.placement
    given = [parameter for group in module.parameter_groups() for parameter in group["params"]]
    trained = [parameter for parameter in given if parameter.requires_grad]
    weights, gradients = _bytes([*module.parameters(), *module.buffers()]), _bytes(trained)
    optimizer = 2 * gradients
    sharded = _num_devices(placement.devices) * placement.num_nodes if "ModelParallel" in placement.strategy else 1
    weights, gradients, optimizer = (size // sharded for size in (weights, gradients, optimizer))
    if placement.strategy.lower().startswith("ddp"):
        gradients *= 2
    return Estimate(weights, gradients, optimizer, max(_activations(subject), _cache(subject)))


def _activations(subject: Subject) -> int:
    """What a step keeps for its backward pass, from steps of one and of two rows: a constant part and one per row."""
    forward, num_rows = _training_pass(subject)
    weights = list(subject.module.parameters())
    one, two = (saved_bytes(partial(forward, copies), weights) for copies in (1, 2))
    return round(one + max(two - one, 0) * max(num_rows - 1, 0))


def _training_pass(subject: Subject) -> tuple[Callable[[int], object], float]:
    """A training step on some copies of the longest row, and how many of these a batch amounts to at most."""
    data, tokenization = subject.data, subject.data.tokenization
    row = max(subject.sample.rows, key=tokenization.length)
    if isinstance(data, DemonstrationData):
        num_rows = data.batch_size * (data.max_length / len(row["input_ids"]) if data.packing else 1)
        return lambda copies: _step(subject, collate_demonstrations([row] * copies)), num_rows
    if isinstance(data, RankingData):
        row = max(subject.sample.rows, key=lambda row: sum(row["candidates"]) * tokenization.length(row))
        return lambda copies: _step(subject, collate_rankings([row] * copies)), data.batch_size
    module = subject.ppo
    length = module.settings.max_response_length
    return lambda copies: _policy_pass(subject, row["prompt_ids"], copies, length), module.minibatch_size


def _step(subject: Subject, batch: Any) -> object:
    with subject.run.trainer.precision_plugin.forward_context():
        return subject.module.training_step(subject.run.placed(batch), 0)


def _policy_pass(subject: Subject, prompt_ids: list[int], copies: int, response_length: int) -> object:
    """Which tokens were sampled changes nothing about the memory."""
    module = subject.ppo
    prompts = torch.tensor([prompt_ids] * copies)
    responses = torch.zeros((copies, response_length), dtype=torch.int64)
    masks = (torch.ones_like(ids, dtype=torch.bool) for ids in (prompts, responses))
    prompt_mask, completion_mask = masks
    rows = response_rows(prompts, prompt_mask, responses, completion_mask, device=module.device)
    with subject.run.trainer.precision_plugin.forward_context():
        return policy_outputs(module.actor_critic, rows, temperature=module.settings.temperature)


def saved_bytes(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that a pass keeps for its backward pass, and of what the backward pass will make at once.

    Args:
        forward: the pass; what it returns holds the graph.
        weights: not counted.
    """
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    # the graph must live until here: a freed tensor's place would be counted as another's
    del result
    return sum(sizes.values()) + 2 * max(sizes.values(), default=0)


def _cache(subject: Subject) -> int:
    """The key-value cache of sampling, `batch_size` rows at a time."""
    if not isinstance(subject.module, PPOModule):
        return 0
    model: PreTrainedModel = subject.module.actor_critic.generation_model
    config: Any = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    longest = max(map(subject.data.tokenization.length, subject.sample.rows))
    num_tokens = subject.data.batch_size * (longest + subject.module.settings.max_response_length)
    return int(2 * config.num_hidden_layers * heads * width * num_tokens * next(model.parameters()).element_size())


def available_memory(device: torch.device) -> int:
    """Bytes that this process has or can still get."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    there = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(int(there), int(limit)) if limit.isdecimal() else int(there)


def _num_devices(devices: Any) -> int:
    """Devices of one machine, from what `trainer.devices` may be: a number, a list, or auto."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    number = int(devices) if str(devices).lstrip("-").isdecimal() else -1
    return number if number > 0 else max(torch.cuda.device_count(), 1)


def _bytes(tensors: Iterable[Tensor]) -> int:
    unique = {id(tensor): tensor for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in unique.values())


def _shown(size: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.0f} KiB"
