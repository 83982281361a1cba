"""The built-in components, offered through the hooks that plug-ins use, by dotted name: nothing heavy is loaded."""

from lightning_rlhf.plugin_system.component import Component
from lightning_rlhf.plugin_system.hookspecs import hookimpl

__all__ = [
    "rlhf_datasets",
    "rlhf_models",
    "rlhf_prompt_templates",
    "rlhf_ranking_converters",
    "rlhf_reward_functions",
]

_PACKAGE = "lightning_rlhf.builtins"


@hookimpl
def rlhf_datasets() -> list[Component]:
    """Files and the hub."""
    return [
        Component("file", f"{_PACKAGE}.sources:FileSource", "local jsonl, json, csv, tsv, parquet, arrow or txt files"),
        Component("hub", f"{_PACKAGE}.sources:HubSource", "a dataset of the Hugging Face hub"),
    ]


@hookimpl
def rlhf_prompt_templates() -> list[Component]:
    """Common formats, and the tokenizer's own."""
    return [
        Component("plain", f"{_PACKAGE}.templates:PlainTemplate", "the text alone, no markers"),
        Component("alpaca", f"{_PACKAGE}.templates:AlpacaTemplate", "### Instruction and ### Response headings"),
        Component("chatml", f"{_PACKAGE}.templates:ChatMLTemplate", "<|im_start|>role ... <|im_end|>"),
        Component("human_assistant", f"{_PACKAGE}.templates:HumanAssistantTemplate", "Human: and Assistant: turns"),
        Component("tokenizer", f"{_PACKAGE}.templates:TokenizerTemplate", "the tokenizer's own chat template"),
    ]


@hookimpl
def rlhf_reward_functions() -> list[Component]:
    """Scores that need no model."""
    module = f"{_PACKAGE}.reward_functions"
    return [
        Component("length", f"{module}:LengthReward", "the length of the response"),
        Component("stop_token", f"{module}:StopTokenReward", "whether the response ended by itself"),
        Component("regex", f"{module}:RegexReward", "whether a regular expression matches"),
        Component("repetition", f"{module}:RepetitionReward", "a penalty for repeated n-grams"),
        Component("function", f"{module}:FunctionReward", "a Python callable of your own, by module:name"),
    ]


@hookimpl
def rlhf_ranking_converters() -> list[Component]:
    """Ways from places to scalar rewards."""
    module = f"{_PACKAGE}.converters"
    return [
        Component("linear", f"{module}:LinearConverter", "evenly spaced from 1 (best) to -1"),
        Component("borda", f"{module}:BordaConverter", "share of the other candidates beaten"),
        Component("zscore", f"{module}:ZScoreConverter", "places, standardised per annotator"),
        Component("bradley_terry", f"{module}:BradleyTerryConverter", "maximum likelihood over annotators"),
    ]


@hookimpl
def rlhf_models() -> list[Component]:
    """Models that need no download."""
    return [Component("tiny", f"{_PACKAGE}.models:TinyModel", "random weights and a byte tokenizer, offline")]
