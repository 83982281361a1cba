"""TRL's PPOTrainer as its documentation uses it, every model trained as a whole."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import PPOConfig, PPOTrainer
from trl.trainer import ppo_trainer


def run(spec: dict[str, Any], pace: Any) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec["policy"], padding_side="left")
    policy, reference = (_language_model(spec["policy"]) for _ in range(2))
    value_model, reward_model = (
        AutoModelForSequenceClassification.from_pretrained(spec["scorer"], num_labels=1, dtype=torch.float32)
        for _ in range(2)
    )
    prompts = json.loads(Path(spec["ids"]).read_text())
    reporting = IterationPace(pace, spec, tokenizer.pad_token_id)
    trainer = PPOTrainer(
        PPOConfig(
            output_dir="trl",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=0,
            learning_rate=spec["learning_rate"],
            lr_scheduler_type="constant",
            total_episodes=10**6,
            per_device_train_batch_size=spec["episodes"],
            gradient_accumulation_steps=1,
            num_mini_batches=spec["episodes"] // spec["minibatch_size"],
            local_rollout_forward_batch_size=spec["episodes"],
            num_ppo_epochs=spec["num_epochs"],
            response_length=spec["response_tokens"],
            stop_token_id=spec["stop_id"] if spec["stop_probability"] else None,
            temperature=1.0,
            kl_coef=spec["kl_coef"],
            missing_eos_penalty=None,
            num_sample_generations=0,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:1]}),
        callbacks=[reporting],
    )
    ppo_trainer.batch_generation = reporting.counting(ppo_trainer.batch_generation)
    trainer.train()


def _language_model(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)


class IterationPace(TrainerCallback):
    """Waits before every iteration and reports after it.

    Args:
        pace: what to report to.
        spec: the row's.
        pad_id: what prompts and stopped responses are filled up with.
    """

    def __init__(self, pace: Any, spec: dict[str, Any], pad_id: int) -> None:
        self._pace = pace
        self._fixed = {"flop": spec["flop"]} if "flop" in spec else {}
        self._pad_id = pad_id
        self._facts: dict[str, Any] = {}

    def counting(self, generate: Any) -> Any:
        """Its generation, looked at."""

        def counted(model: Any, prompts: torch.Tensor, *arguments: Any) -> Any:
            rows, logits = generate(model, prompts, *arguments)
            self._facts = {
                "episodes": len(rows),
                "prompt_tokens": int((prompts != self._pad_id).sum()),
                "response_tokens": int((rows[:, prompts.shape[1] :] != self._pad_id).sum()),
                "width": rows.shape[1],
            }
            return rows, logits

        return counted

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        num_parameters = sum(parameter.numel() for parameter in kwargs["model"].parameters())
        self._pace.ready(num_parameters=num_parameters)
        if not self._pace.wait():
            self._pace.leave()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logged = state.log_history[-1]
        self._pace.next(
            **self._facts,
            **self._fixed,
            score=logged["objective/scores"],
            kl=logged["objective/kl"],
            value_loss=logged["loss/value_avg"],
        )
