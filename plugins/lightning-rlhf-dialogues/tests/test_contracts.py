"""What every component of its kind must do, checked by the contract kit on the samples that come with the package."""

from lightning_rlhf.testing import DataSourceContract, PromptTemplateContract


class TestAlpaca(DataSourceContract):
    component = "alpaca"


class TestBestFirst(DataSourceContract):
    component = "best_first"


class TestChatGLM(DataSourceContract):
    component = "chatglm"


class TestChatterbot(DataSourceContract):
    component = "chatterbot"
    init_args = {"categories": ["ai", "humor", "emotion"], "val_fraction": 0.2, "test_fraction": 0.2}
    splits = ("train", "validation", "test")


class TestHH(DataSourceContract):
    component = "hh"


class TestKdConv(DataSourceContract):
    component = "kdconv"


class TestMoss(DataSourceContract):
    component = "moss"


class TestOasstRankings(DataSourceContract):
    component = "oasst_rankings"


class TestOasstThreads(DataSourceContract):
    component = "oasst_threads"


class TestOpenAIMessages(DataSourceContract):
    component = "openai_messages"


class TestPandaLM(DataSourceContract):
    component = "pandalm"


class TestShareGPT(DataSourceContract):
    component = "sharegpt"


class TestChatGLMTemplate(PromptTemplateContract):
    component = "chatglm"


class TestChatGLM2Template(PromptTemplateContract):
    component = "chatglm"
    init_args = {"first_round": 1, "line_break": "\n\n"}


class TestHHTemplate(PromptTemplateContract):
    component = "hh"


class TestMossTemplate(PromptTemplateContract):
    component = "moss"


class TestMossTemplateWithInnerSteps(PromptTemplateContract):
    component = "moss"
    init_args = {"inner_steps": True}


class TestVicunaTemplate(PromptTemplateContract):
    component = "vicuna"


class TestVicunaTemplateWithoutAnEnd(PromptTemplateContract):
    component = "vicuna"
    init_args = {"preamble": "", "end": ""}
