"""Small chat templates with the habits of those that people have, and tokenizers that know their markers.

They are written for these tests; what they share with a family is what the family does to a dialogue.
"""

from dataclasses import dataclass

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_CHATML = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
_CHATML_PROMPT = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
_DEFAULT_SYSTEM = "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nBe kind.<|im_end|>\n' }}{%- endif %}"

_LAST_QUESTION = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
)
_SPLIT_THINKING = (
    "{%- set said = m.content %}{%- set thought = '' %}"
    "{%- if '</think>' in said %}"
    "{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{%- set said = said.split('</think>')[-1].lstrip('\n') %}"
    "{%- endif %}"
)
_QWEN3 = (
    _LAST_QUESTION + "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\n' }}" + _SPLIT_THINKING + "{%- if loop.index0 > ns.last %}"
    "{{- '<think>\n' + thought + '\n</think>\n\n' + said }}{%- else %}{{- said }}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    + _CHATML_PROMPT
)
_QWEN3_MARKED = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}" + _SPLIT_THINKING + "{%- generation %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + said + '<|im_end|>\n' }}"
    "{%- endgeneration %}{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}" + _CHATML_PROMPT
)
_PHI3 = (
    "{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- else %}{{- eos_token }}{%- endif %}"
)
_PHI3_MARKED = (
    "{%- for m in messages %}{{- '<|' + m.role + '|>\n' }}{%- if m.role == 'assistant' %}"
    "{%- generation %}{{- m.content + '<|end|>\n' }}{%- endgeneration %}"
    "{%- else %}{{- m.content + '<|end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}"
    "{%- else %}{%- generation %}{{- eos_token }}{%- endgeneration %}{%- endif %}"
)
_PHI4 = (
    "{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- else %}{{- eos_token }}{%- endif %}"
)
_GPT_OSS = (
    "{{- '<|start|>system<|message|>Channels: analysis, final.<|end|>' }}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{%- if loop.last and not add_generation_prompt %}{{- '<|return|>' }}{%- else %}{{- '<|end|>' }}{%- endif %}"
    "{%- elif m.role == 'system' %}{{- '<|start|>developer<|message|>' + m.content + '<|end|>' }}"
    "{%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
)
_GLM = (
    "{{- '[gMASK]<sop>' }}" + _LAST_QUESTION + "{%- for m in messages %}{{- '<|' + m.role + '|>' }}"
    "{%- if m.role == 'assistant' %}" + _SPLIT_THINKING + "{{- '\n<think>' }}"
    "{%- if loop.index0 > ns.last %}{{- thought }}{%- endif %}{{- '</think>\n' + said.strip() }}"
    "{%- else %}{{- '\n' + m.content }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
_GLM_MARKED = (
    "{{- '[gMASK]<sop>' }}{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|assistant|>' }}"
    "{%- generation %}{{- '\n<think></think>\n' + m.content.strip() + '<|user|>' }}{%- endgeneration %}"
    "{%- else %}{%- if loop.first or messages[loop.index0 - 1].role != 'assistant' %}{{- '<|' + m.role + '|>' }}"
    "{%- endif %}{{- '\n' + m.content }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
_DEEPSEEK = (
    "{{- bos_token }}{%- for m in messages if m.role == 'system' %}{{- m.content }}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<User>' + m.content }}{%- endif %}"
    "{%- if m.role == 'assistant' %}{{- '<Assistant>' + m.content.split('</think>')[-1] + eos_token }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<Assistant><think>\n' }}{%- endif %}"
)
_DEEPSEEK_MARKED = _DEEPSEEK.replace("{{- '<Assistant>' + m", "{%- generation %}{{- '<Assistant>' + m").replace(
    "eos_token }}{%- endif", "eos_token }}{%- endgeneration %}{%- endif"
)
_DEEPSEEK_31 = _DEEPSEEK.replace("'<Assistant>' +", "'<Assistant></think>' +").replace(
    "<Assistant><think>\n", "<Assistant></think>"
)
_LLAMA3 = (
    "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
_ALTERNATE = (
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('turns must alternate') }}{%- endif %}"
)
_MISTRAL = (
    "{%- if messages[0].role == 'system' %}{%- set told = messages[0].content %}{%- set turns = messages[1:] %}"
    "{%- else %}{%- set turns = messages %}{%- endif %}{{- bos_token }}{%- for m in turns %}"
    + _ALTERNATE
    + "{%- if m.role == 'user' %}{{- '[INST] ' }}"
    "{%- if loop.last and told is defined %}{{- told + '\n\n' }}{%- endif %}{{- m.content + '[/INST]' }}"
    "{%- else %}{{- ' ' + m.content | trim + eos_token }}{%- endif %}{%- endfor %}"
)
_GEMMA = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}{{- raise_exception('no system turn') }}{%- endif %}"
    "{%- for m in messages %}" + _ALTERNATE + "{%- set who = 'model' if m.role == 'assistant' else m.role %}"
    "{{- '<start_of_turn>' + who + '\n' + m.content | trim + '<end_of_turn>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"
)
_GRANITE = (
    "{%- if messages[0].role != 'system' %}{{- '<|start_of_role|>system<|end_of_role|>Today.<|end_of_text|>\n' }}"
    "{%- endif %}"
    "{%- for m in messages %}{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
)
_COHERE = (
    "{{- bos_token + '<|TURN|><|SYSTEM|>Be kind.<|END_TURN|>' }}{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{{- '<|TURN|><|BOT|><|START_RESPONSE|>' + m.content + '<|END_RESPONSE|><|END_TURN|>' }}"
    "{%- else %}{{- '<|TURN|><|' + m.role | upper + '|>' + m.content + '<|END_TURN|>' }}{%- endif %}{%- endfor %}"
    "{{- '<|TURN|><|BOT|>' }}"
)
_COHERE_MARKED = (
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- generation %}{{- '<|TURN|><|BOT|>' + m.content + '<|END_TURN|>' }}{%- endgeneration %}"
    "{%- else %}{{- '<|TURN|><|' + m.role | upper + '|>' + m.content + '<|END_TURN|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|TURN|><|BOT|>' }}{%- endif %}"
)
_SMOLLM3 = (
    _DEFAULT_SYSTEM + "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- generation %}"
    "{{- '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}{%- endgeneration %}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    + _CHATML_PROMPT
)
_PLAIN = (
    "{%- for m in messages %}{{- m.role + ': ' + m.content + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"
)


@dataclass(frozen=True)
class Family:
    """A chat template, its special tokens, and what one should learn of it.

    Args:
        template: Jinja text.
        ending: what ends a learned response.
        eos: the tokenizer's EOS.
        bos: the tokenizer's BOS.
        begins: what the tokenizer's post-processor writes before every text.
        lead: what the policy writes before the text of an answer.
        rows: rows that it takes to learn both answers of a dialogue of two.
        system: whether it takes a system turn.
    """

    template: str
    ending: str
    eos: str = "</s>"
    bos: str = "<s>"
    begins: tuple[str, ...] = ()
    lead: str = ""
    rows: int = 1
    system: bool = True

    def tokenizer(self) -> PreTrainedTokenizerFast:
        return marker_tokenizer(self.template, eos=self.eos, bos=self.bos, begins=self.begins)


FAMILIES = {
    "qwen2.5": Family(_DEFAULT_SYSTEM + _CHATML + _CHATML_PROMPT, "<|im_end|>", eos="<|im_end|>"),
    "qwen3": Family(_QWEN3, "<|im_end|>", eos="<|im_end|>", lead="<think>\n\n</think>\n\n", rows=2),
    "phi3": Family(_PHI3, "<|end|>", eos="<|endoftext|>"),
    "phi4": Family(_PHI4, "<|end|>", eos="<|endoftext|>"),
    "gpt-oss": Family(_GPT_OSS, "<|return|>", eos="<|return|>", lead="<|channel|>final<|message|>", rows=2),
    "glm4.5": Family(
        _GLM, "<|endoftext|>", eos="<|endoftext|>", begins=("[gMASK]", "<sop>"), lead="\n<think></think>\n", rows=2
    ),
    "deepseek-r1": Family(_DEEPSEEK, "<eos>", eos="<eos>", bos="<bos>", begins=("<bos>",), rows=2),
    "deepseek-v3.1": Family(_DEEPSEEK_31, "<eos>", eos="<eos>", bos="<bos>", begins=("<bos>",)),
    "llama3": Family(_LLAMA3, "<|eot_id|>", eos="<|end_of_text|>", bos="<|begin|>", begins=("<|begin|>",)),
    "mistral": Family(_MISTRAL, "</s>", begins=("<s>",), lead=" ", rows=2),
    "gemma": Family(_GEMMA, "<end_of_turn>", eos="<eos>", bos="<bos>", begins=("<bos>",), system=False),
    "granite": Family(_GRANITE, "<|end_of_text|>", eos="<|end_of_text|>", bos="<|end_of_text|>"),
    "command-r": Family(
        _COHERE, "<|END_RESPONSE|><|END_TURN|>", eos="<|END_TURN|>", bos="<BOS>", lead="<|START_RESPONSE|>"
    ),
    "smollm2": Family(_DEFAULT_SYSTEM + _CHATML + _CHATML_PROMPT, "<|im_end|>", eos="<|im_end|>", bos="<|im_start|>"),
    "smollm3": Family(_SMOLLM3, "<|im_end|>", eos="<|im_end|>", bos="<|im_start|>"),
    "internlm": Family("{{- bos_token }}" + _CHATML + _CHATML_PROMPT, "<|im_end|>", begins=("<s>",)),
    "no end marker": Family(_PLAIN, "</s>", rows=2),
}
MARKED = {
    "qwen3": Family(_QWEN3_MARKED, "<|im_end|>", eos="<|im_end|>", lead="<think>\n\n</think>\n\n"),
    "phi3": Family(_PHI3_MARKED, "<|end|>", eos="<|endoftext|>"),
    "glm4.5": Family(
        _GLM_MARKED, "<|user|>", eos="<|endoftext|>", begins=("[gMASK]", "<sop>"), lead="\n<think></think>\n"
    ),
    "deepseek-r1": Family(_DEEPSEEK_MARKED, "<eos>", eos="<eos>", bos="<bos>", begins=("<bos>",), rows=2),
    "command-r": Family(_COHERE_MARKED, "<|END_TURN|>", eos="<|END_TURN|>", bos="<BOS>"),
}

_MARKERS = (
    *("<|im_start|>", "<|im_end|>", "<|end|>", "<|return|>", "<|start|>", "<|message|>", "<|channel|>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "[gMASK]", "<sop>", "<User>", "<Assistant>", "<think>", "</think>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_of_role|>", "<|end_of_role|>", "<|TURN|>", "<|END_TURN|>", "<|BOT|>", "<|SYSTEM|>", "<|USER|>"),
    *("<|START_RESPONSE|>", "<|END_RESPONSE|>", "[INST]", "[/INST]"),
)


def marker_tokenizer(
    template: str, *, eos: str = "</s>", bos: str = "<s>", begins: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """Bytes, and a merge over a space and a letter, so that pieces that are cut in another place have other ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", letter) for letter in "ABHabh"]
    tokens = [*alphabet, *("".join(merge) for merge in merges)]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, additional_special_tokens=list(_MARKERS)
    )
    if begins:
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in begins]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join([*begins, "$A"]), special_tokens=ids
        )
    tokenizer.chat_template = template
    return tokenizer


ALL = {**FAMILIES, **{f"{name}, marked": family for name, family in MARKED.items()}}


@pytest.fixture(params=ALL, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return ALL[request.param]


@pytest.fixture(scope="session")
def families() -> dict[str, Family]:
    return ALL
