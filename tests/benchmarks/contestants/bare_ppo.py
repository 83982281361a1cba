"""A plain PyTorch loop of the same maths for prompts and responses of one length: no masks, no padding, no stops.

Sampling with the key-value cache, whose probabilities are the old ones; logits at response positions only; fused AdamW.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GPT2ForSequenceClassification, GPT2LMHeadModel

CLIP_RANGE, VALUE_COEF, GAE_LAMBDA = 0.2, 0.1, 0.95


class Rollout(NamedTuple):
    """`(B, T)` ids, the rest `(B, R)`."""

    ids: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def run(spec: dict[str, Any], pace: Any) -> None:
    loop = Loop(spec)
    prompts = torch.tensor(json.loads(Path(spec["ids"]).read_text()))
    pace.ready(num_parameters=sum(parameter.numel() for model in loop.models for parameter in model.parameters()))
    order = torch.randperm(len(prompts))
    while pace.wait():
        if len(order) < spec["episodes"]:
            order = torch.randperm(len(prompts))
        chosen, order = order[: spec["episodes"]], order[spec["episodes"] :]
        rollout, facts = loop.collect(prompts[chosen])
        value_loss = loop.learn(rollout)
        pace.done(
            episodes=len(chosen),
            prompt_tokens=prompts[chosen].numel(),
            response_tokens=rollout.logprobs.numel(),
            flop=spec["flop"],
            value_loss=value_loss,
            **facts,
        )


class Loop:
    """Four models and an optimizer."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.policy, self.reference = (
            GPT2LMHeadModel.from_pretrained(spec["policy"], dtype=torch.float32).eval() for _ in range(2)
        )
        self.value_model, self.reward_model = (
            GPT2ForSequenceClassification.from_pretrained(spec["scorer"], dtype=torch.float32).eval() for _ in range(2)
        )
        self.models = (self.policy, self.reference, self.value_model, self.reward_model)
        trained = [*self.policy.parameters(), *self.value_model.parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=spec["learning_rate"], weight_decay=0.0, fused=True)

    @torch.no_grad()
    def collect(self, prompts: Tensor) -> tuple[Rollout, dict[str, float]]:
        """Sampled responses, their scores and advantages."""
        ids, logprobs = self.sample(prompts)
        ref_logprobs = self.logprobs(self.reference, ids)
        values = self.values(ids)
        hidden = self.reward_model.transformer(ids, use_cache=False).last_hidden_state
        scores = self.reward_model.score(hidden[:, -1]).squeeze(-1)
        kl = logprobs - ref_logprobs
        rewards = -self.spec["kl_coef"] * kl
        rewards[:, -1] += scores
        advantages = torch.zeros_like(rewards)
        following, advantage = torch.zeros(len(ids)), torch.zeros(len(ids))
        for step in reversed(range(rewards.shape[1])):
            advantage = rewards[:, step] + following - values[:, step] + GAE_LAMBDA * advantage
            advantages[:, step] = advantage
            following = values[:, step]
        returns = advantages + values
        whitened = (advantages - advantages.mean()) * torch.rsqrt(advantages.var(correction=0) + 1e-8)
        facts = {"score": float(scores.mean()), "kl": float(kl.sum(-1).mean())}
        return Rollout(ids, logprobs, values, whitened, returns), facts

    def sample(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts with responses, and the log-probabilities that these were drawn with."""
        cache = DynamicCache()
        pieces, logprobs = [prompts], []
        for _ in range(self.spec["response_tokens"]):
            output = self.policy(pieces[-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
            logged = output.logits[:, -1].log_softmax(-1)
            pieces.append(torch.multinomial(logged.exp(), 1))
            logprobs.append(logged.gather(-1, pieces[-1]))
        return torch.cat(pieces, 1), torch.cat(logprobs, 1)

    def learn(self, rollout: Rollout) -> float:
        """The passes over a rollout; returns the mean value loss."""
        total, steps = 0.0, 0
        for _ in range(self.spec["num_epochs"]):
            for rows in torch.randperm(len(rollout.ids)).split(self.spec["minibatch_size"]):
                ids, old_logprobs, old_values, advantages, returns = (tensor[rows] for tensor in rollout)
                ratio = (self.logprobs(self.policy, ids) - old_logprobs).exp()
                clipped = ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE)
                policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
                values = self.values(ids)
                near = old_values + (values - old_values).clamp(-CLIP_RANGE, CLIP_RANGE)
                value_loss = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
                (policy_loss + VALUE_COEF * value_loss).backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                total, steps = total + float(value_loss.detach()), steps + 1
        return total / steps

    def logprobs(self, model: GPT2LMHeadModel, ids: Tensor) -> Tensor:
        """Of the response tokens."""
        taken = ids[:, -self.spec["response_tokens"] :]
        hidden = model.transformer(ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, -taken.shape[1] - 1 : -1])
        return -F.cross_entropy(logits.flatten(0, 1), taken.flatten(), reduction="none").view_as(taken)

    def values(self, ids: Tensor) -> Tensor:
        """Before each response token."""
        hidden = self.value_model.transformer(ids, use_cache=False).last_hidden_state
        return self.value_model.score(hidden[:, -self.spec["response_tokens"] - 1 : -1]).squeeze(-1)
