"""Peak memory on one device by part, for each phase of a step. The peak is that of the phase that takes most.

Weights are counted. The rest is recorded from passes over two and three rows, allocation by allocation, and scaled to
the run's own batch: what a pass takes is affine in its rows and in the positions whose logits are read, at every moment
of it. Nothing is trained, and no gradient is left behind.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from lightning_rlhf.cli.estimate.allocations import Trace, recorded, scaled
from lightning_rlhf.cli.estimate.places import num_shards
from lightning_rlhf.cli.estimate.probes import Probe, Size, passes_without_gradient, training_pass
from lightning_rlhf.cli.estimate.sampling import SamplingNeeds, sampling_needs
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.data.rows import Row
from lightning_rlhf.models.adapters import active_adapter
from lightning_rlhf.modules import PPOModule

__all__ = ["Estimate", "estimate_memory", "peak_estimate"]

_MAPPED = 32 * 2**20
"""Blocks from this size on go back to the system as soon as they are free: the largest threshold that glibc takes."""
_HOLES, _HOLES_WITH_ADAPTERS = 0.6, 0.9
"""What a CPU's heap takes beyond what is in use at the peak, per byte that a step takes and gives back in smaller
blocks: measured, 0.4 to 0.9, and 0.7 to 1.1 with the many small tensors of adapters. Small ones settle in the gaps that
large ones leave, and the next large one does not fit. A rollout leaves holes of its own sizes."""
_UNDER_AUTOCAST = 0.75
"""Of those holes, measured: blocks of two sizes fit into more of them."""
_KERNELS = 95 * 2**20
"""What oneDNN keeps of compiled kernels where it computes half-precision products: measured, 55 to 121 MiB."""
_PROCESS = 8 * 2**20
"""What a run on a CPU takes beside tensors: tokenizer, rows, and the rest of its objects; measured."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on one device at the peak of a phase.

    Args:
        weights: of all models, frozen ones included; under FSDP2 a shard, and what is gathered of the others.
        gradients: of the trained weights; under DDP its buckets as well.
        optimizer: AdamW's two moments, and what its step needs for a moment.
        activations: of one pass, with half-precision copies of weights and what the backward pass needs for a moment.
        cache: keys and values of sampling.
        logits: at the positions that a loss or a score reads, with all that is computed of them.
        overhead: on a CPU the process itself and what its allocator keeps of freed memory.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0
    logits: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Bytes by the name of the part."""
        return {name: getattr(self, name) for name in self.__slots__}


def peak_estimate(phases: dict[str, Estimate]) -> Estimate:
    """That of the phase that takes most."""
    return max(phases.values(), key=lambda estimate: estimate.total)


def estimate_memory(run: PreparedRun, rows: Sequence[Row]) -> dict[str, Estimate]:
    """The peak of each phase of a step on one device, under the phase's name.

    Args:
        run: that has not started; its weights stay as they are.
        rows: of its training split, at least one; the longest are taken.
    """
    standing = _standing(run)
    update = _with_pass(run, standing, training_pass(run, rows), trained=True)
    phases = {"update": update, "optimizer step": _optimizer_step(run, standing)}
    if isinstance(run.module, PPOModule):
        for name, probe in passes_without_gradient(run, rows).items():
            phases[name] = _with_pass(run, standing, probe, trained=False)
        phases["sampling"] = _with_sampling(run, standing, sampling_needs(run, run.module, rows))
    overhead = _overhead(run, update.passing, [phase.passing for phase in phases.values() if phase is not update])
    return {name: replace(phase.estimate, overhead=overhead) for name, phase in phases.items()}


@dataclass(frozen=True, slots=True)
class _Phase:
    """A phase's estimate, and the bytes that it takes and gives back in blocks of the heap."""

    estimate: Estimate
    passing: float = 0.0


def _standing(run: PreparedRun) -> Estimate:
    """What stays from step to step: gradients too, which Lightning clears after the next forward pass only."""
    trained = _bytes(_trained(run))
    weights = _bytes([*run.module.parameters(), *run.module.buffers()])
    shards = num_shards(run.placement)
    buckets = 2 if run.placement.strategy.lower().startswith("ddp") else 1
    gathered = sum(_gathered_at_once(run, network) for network in run.module.networks())
    return Estimate(
        weights=weights // shards + gathered,
        gradients=buckets * trained // shards,
        optimizer=2 * trained // shards,
    )


def _with_pass(run: PreparedRun, standing: Estimate, probe: Probe, *, trained: bool) -> _Phase:
    few = max(probe.targets // 2, 1)
    passes = [(2, probe.targets), (3, probe.targets), *([(2, few)] if probe.targets > 1 else [])]
    sizes = [Size(number, number * targets) for number, targets in passes]
    work = partial(_two_steps, run) if trained else _one_pass
    _one_pass(probe.prepare(*passes[0]))  # a model's first call tries out its last block
    traces = [recorded(partial(work, probe.prepare(*each)), run.module.device) for each in passes]
    dimensions = 2 if probe.targets > 1 else 1
    scale = partial(scaled, traces, [size[:dimensions] for size in sizes])
    whole, without = scale(probe.size[:dimensions]), scale((probe.size.rows, 0.0)[:dimensions])
    moment = int(whole.live.argmax())
    logits = max(whole.live[moment] - without.live[moment], 0.0)
    gradients = _trained(run) if trained else []  # the trace has them
    activations = max(whole.peak - _bytes(gradients) - logits, 0.0)
    estimate = replace(standing, activations=round(activations), logits=round(logits))
    return _Phase(estimate, _in_heap(whole, gradients))


def _one_pass(work: Callable[[], object]) -> None:
    with torch.no_grad():
        work()


def _two_steps(run: PreparedRun, forward: Callable[[], Tensor]) -> None:
    """Forward and backward twice: the first step has no gradients yet, and is not where the peak is."""
    weights = _trained(run)
    with torch.enable_grad():
        for _ in range(2):
            loss = forward()
            if run.trainer.accumulate_grad_batches == 1:
                _clear(weights)  # where Lightning does it: after the forward pass
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
    _clear(weights)


def _clear(weights: Iterable[nn.Parameter]) -> None:
    for weight in weights:
        weight.grad = None


def _in_heap(trace: Trace, gradients: Sequence[Tensor] = ()) -> float:
    """Bytes in blocks that the heap keeps, gradients not counted: they stay from step to step."""
    mapped = _mapped_from()
    small = Trace(trace.sizes[abs(trace.sizes) < mapped])
    return max(small.peak - _bytes(gradient for gradient in gradients if gradient.nbytes < mapped), 0.0)


def _overhead(run: PreparedRun, update: float, others: Sequence[float]) -> int:
    if run.module.device.type != "cpu":
        return 0
    share = _HOLES if active_adapter(run.module) is None else _HOLES_WITH_ADAPTERS
    precision = str(run.trainer.precision)
    if precision.endswith("-mixed"):
        share *= _UNDER_AUTOCAST
    kernels = _KERNELS if precision.startswith("bf16") and torch.backends.cpu.get_cpu_capability() == "AVX512" else 0
    return _PROCESS + kernels + round(share * (update + max(others, default=0.0)))


def _mapped_from() -> int:
    """The threshold, which who starts the process may have fixed at a lower one."""
    fixed = os.environ.get("MALLOC_MMAP_THRESHOLD_", "")
    return min(int(fixed), _MAPPED) if fixed.isdecimal() else _MAPPED


def _optimizer_step(run: PreparedRun, standing: Estimate) -> _Phase:
    """In place where AdamW steps fused; under FSDP2 and with scaled gradients it takes the square roots of a moment."""
    in_place = num_shards(run.placement) == 1 and getattr(run.trainer.precision_plugin, "scaler", None) is None
    moment = 0 if in_place else standing.optimizer // 2
    return _Phase(replace(standing, optimizer=standing.optimizer + moment))


def _with_sampling(run: PreparedRun, standing: Estimate, needs: SamplingNeeds) -> _Phase:
    """The pass over the prompts, or the last token of the longest responses: whatever takes more."""
    grown = needs.cache + needs.copied
    if needs.prompts.peak > grown + needs.step.peak:
        cache = min(needs.prompt_cache, needs.prompts.peak)
        activations, passing = needs.prompts.peak - cache, _in_heap(needs.prompts)
    else:
        cache, activations = grown, needs.step.peak
        passing = _in_heap(needs.step) + (grown if needs.copied < _mapped_from() else 0.0)
    assert isinstance(run.module, PPOModule)
    weights = standing.weights + _gathered(run, run.module.actor_critic.policy)
    return _Phase(replace(standing, weights=weights, cache=round(cache), activations=round(activations)), passing)


# Counting


def _trained(run: PreparedRun) -> list[nn.Parameter]:
    given: list[nn.Parameter] = [weight for group in run.module.parameter_groups() for weight in group["params"]]
    return [weight for weight in given if weight.requires_grad]


def _bytes(tensors: Iterable[Tensor]) -> int:
    unique = {id(tensor): tensor for tensor in tensors}
    return sum(tensor.nbytes for tensor in unique.values())


def _layers(network: nn.Module) -> list[nn.Module]:
    return [block for module in network.modules() if isinstance(module, nn.ModuleList) for block in module]


def _gathered_at_once(run: PreparedRun, network: nn.Module) -> int:
    """Under FSDP2 the root's weights are whole from forward to backward, and a layer's while the next is fetched."""
    if num_shards(run.placement) == 1:
        return 0
    layers = [_bytes(layer.parameters()) for layer in _layers(network)]
    return _bytes(network.parameters()) - sum(layers) + 2 * max(layers, default=0)


def _gathered(run: PreparedRun, network: nn.Module) -> int:
    """What sampling gathers beyond that: all layers at once."""
    if num_shards(run.placement) == 1:
        return 0
    return max(_bytes(network.parameters()) - _gathered_at_once(run, network), 0)
