"""What the package offers, by dotted name: listing it loads nothing heavy."""

from lightning_rlhf import Component, hookimpl

__all__ = ["rlhf_datasets", "rlhf_prompt_templates"]

_PACKAGE = "lightning_rlhf_dialogues"


@hookimpl
def rlhf_datasets() -> list[Component]:
    """One component per layout; OASST's trees give two kinds of record, and so two components."""
    return [
        Component("alpaca", f"{_PACKAGE}.alpaca:Alpaca", "Alpaca's instruction, input and output"),
        Component("best_first", f"{_PACKAGE}.best_first:BestFirst", "lists of K answers, the best first"),
        Component("chatglm", f"{_PACKAGE}.chatglm:ChatGLM", "ChatGLM's rounds, and prompts with a history of pairs"),
        Component("chatterbot", f"{_PACKAGE}.chatterbot:Chatterbot", "the chatterbot corpus in 28 languages, offline"),
        Component("hh", f"{_PACKAGE}.hh:HH", "Anthropic's chosen and rejected Human/Assistant transcripts"),
        Component("kdconv", f"{_PACKAGE}.kdconv:KdConv", "KdConv's Chinese dialogues, whose turns carry no role"),
        Component("moss", f"{_PACKAGE}.moss:Moss", "MOSS: numbered turns with thoughts, commands and tool results"),
        Component("oasst_rankings", f"{_PACKAGE}.oasst:OasstRankings", "OpenAssistant's trees: ranked answers"),
        Component("oasst_threads", f"{_PACKAGE}.oasst:OasstThreads", "OpenAssistant's trees or messages: dialogues"),
        Component("openai_messages", f"{_PACKAGE}.openai:OpenAIMessages", "OpenAI chat messages, with tool calls"),
        Component("pandalm", f"{_PACKAGE}.pandalm:PandaLM", "PandaLM's comparisons by three annotators"),
        Component("sharegpt", f"{_PACKAGE}.sharegpt:ShareGPT", "ShareGPT's from/value turns, and preferences in them"),
    ]


@hookimpl
def rlhf_prompt_templates() -> list[Component]:
    """The layouts that are also a way to write a dialogue for a model."""
    module = f"{_PACKAGE}.templates"
    return [
        Component("chatglm", f"{module}:ChatGLMTemplate", "ChatGLM's rounds: [Round 0], 问： and 答："),
        Component("hh", f"{module}:HHTemplate", "Human: and Assistant: as in Anthropic's transcripts"),
        Component("moss", f"{module}:MossTemplate", "<|Human|>: ... <eoh> and <|MOSS|>: ... <eom>, with inner steps"),
        Component("vicuna", f"{module}:VicunaTemplate", "USER: and ASSISTANT: on one line, as Vicuna reads ShareGPT"),
    ]
