import pytest
import torch

from lightning_rlhf.batches import PromptBatch, PromptDetails
from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.builtins.templates import AlpacaTemplate, ChatMLTemplate, PlainTemplate
from lightning_rlhf.data import PromptFormatter
from lightning_rlhf.errors import ScorerError
from lightning_rlhf.models import LoadedModel, ScalarModel
from lightning_rlhf.records import Message
from lightning_rlhf.rollout.responses import describe_responses
from lightning_rlhf.rollout.reward_models import RewardModelScorer, same_formatting
from lightning_rlhf.rollout.sampling import finish_responses


def scalar_model(tiny, **options):
    return ScalarModel.from_language_model(LoadedModel(tiny.llama(**options), None, "tiny", None), seed=1).eval()


def scorer(tiny, formatter=None, model=None, batch_size=2):
    model = model or scalar_model(tiny)
    return RewardModelScorer("helpful", model, formatter or tiny.formatter(), tiny.formatter(), batch_size=batch_size)


@pytest.fixture
def responses(tiny):
    prompts = tiny.prompts(["cd", "e", "ffghij", "k"])
    ids = torch.tensor([[4, 5, 1], [6, 1, 0], [7, 8, 9], [1, 0, 0]])
    return describe_responses(prompts, finish_responses(ids, [1]), tiny.formatter())


def test_scores_are_those_of_each_row_alone_read_at_its_last_token(tiny, responses):
    subject = scorer(tiny)
    scores = subject.score(responses)
    for row, ids in enumerate([[2, 3, 4, 5, 1], [4, 6, 1], [5, 5, 6, 7, 8, 9, 7, 8, 9, 1], [10, 1]]):
        with torch.no_grad():
            hidden = subject.model.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
            expected = subject.model.head(hidden)
        torch.testing.assert_close(scores[row], expected, atol=1e-5, rtol=0)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad


def test_scores_do_not_depend_on_the_batch_size(tiny, responses):
    first, second = (scorer(tiny, batch_size=size).score(responses) for size in (1, 4))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("own_template", [False, True], ids=["the policy's ids", "its own template"])
def test_responses_to_one_prompt_pass_it_once_and_get_the_scores_of_rows_alone(tiny, own_template):
    prompts = tiny.prompts(["cdefghijkc"] * 3 + ["e"])
    ids = torch.tensor([[4, 5, 1], [6, 1, 0], [7, 8, 9], [1, 0, 0]])
    responses = describe_responses(prompts, finish_responses(ids, [1]), tiny.formatter())
    formatter = tiny.formatter(prefix="l") if own_template else None
    subject, counts = scorer(tiny, formatter, batch_size=3), []
    subject.model.backbone.get_input_embeddings().register_forward_hook(
        lambda module, args, output: counts.append(args[0].numel())
    )
    together = subject.score(responses)
    assert counts[:2] == [10 + own_template, 3 * 4]
    torch.testing.assert_close(together, scorer(tiny, formatter, batch_size=1).score(responses), atol=1e-5, rtol=0)


def test_with_the_policys_formatter_the_sampled_ids_are_scored(tiny, responses):
    formatter = tiny.formatter()
    formatter.encode_prompt = formatter.encode = None  # nothing is tokenized again
    subject = scorer(tiny, formatter)
    assert subject.shares_ids
    assert subject.rows(responses)[0] == [2, 3, 4, 5, 1]


def test_an_unstopped_response_gets_a_stop_token_for_the_scorer_alone(tiny, responses):
    mask = responses.completion_mask.clone()
    assert scorer(tiny).rows(responses)[2] == [5, 5, 6, 7, 8, 9, 7, 8, 9, 1]
    assert torch.equal(responses.completion_mask, mask)
    assert responses.response_ids[2].tolist() == [7, 8, 9]


@pytest.mark.parametrize(("ending", "appended"), [((3, 1), 1), ((1, 3), 1), ((3,), 3), ((2, 3, 1), 3), ((), 2)])
def test_an_unstopped_response_gets_the_stop_token_that_the_template_ends_a_turn_with(
    tiny, responses, ending, appended
):
    formatter = tiny.formatter()
    formatter.stop_ids = {(3,): (1, 3), (2, 3, 1): (1, 3), (): (2, 1)}.get(ending, (0, 1))
    formatter.encode_response = lambda messages, response: [*formatter._ids(response), *ending]
    subject = RewardModelScorer("helpful", scalar_model(tiny), formatter, formatter, batch_size=2)
    assert subject.rows(responses)[2] == [5, 5, 6, 7, 8, 9, 7, 8, 9, appended]
    assert subject.rows(responses)[0] == [2, 3, 4, 5, 1]  # one that has stopped keeps its own


def test_another_template_renders_for_itself_with_its_own_stop_token(tiny, responses):
    subject = scorer(tiny, tiny.formatter(prefix="l", stop=0))
    assert not subject.shares_ids
    assert subject.rows(responses)[:3] == [
        [11, 2, 3, 4, 5, 0],
        [11, 4, 6, 0],
        [11, 5, 5, 6, 7, 8, 9, 7, 8, 9, 0],
    ]


def test_a_row_that_does_not_fit_is_an_error(tiny, responses):
    with pytest.raises(ScorerError, match="9 positions of reward model 'helpful', got 10 tokens"):
        scorer(tiny, model=scalar_model(tiny, positions=9)).score(responses)


def test_a_token_that_the_reward_model_does_not_embed_is_an_error_that_names_it(tiny, responses):
    model = scalar_model(tiny)
    model.backbone.resize_token_embeddings(10)
    with pytest.raises(
        ScorerError, match="of reward model 'helpful' must be among the 10 that it embeds, got the id 10"
    ):
        scorer(tiny, model=model).score(responses)


def test_a_score_that_is_not_finite_is_an_error_that_names_the_row(tiny, responses):
    model = scalar_model(tiny)
    with torch.no_grad():
        model.backbone.get_input_embeddings().weight[10] = float("nan")
    with pytest.raises(ScorerError, match="'helpful' must be a finite number, got nan for prompt 'k', response ''"):
        scorer(tiny, model=model).score(responses)


def test_formatters_are_the_same_when_template_and_tokenizer_are():
    tokenizers = [TinyModel().load()[1] for _ in range(2)]
    plain = PromptFormatter(PlainTemplate(), tokenizers[0])
    assert same_formatting(plain, PromptFormatter(PlainTemplate(), tokenizers[1]))
    assert not same_formatting(plain, PromptFormatter(ChatMLTemplate(), tokenizers[1]))
    tokenizers[1].add_tokens(["wholly new"])
    assert not same_formatting(plain, PromptFormatter(PlainTemplate(), tokenizers[1]))


@pytest.mark.parametrize("template", [PlainTemplate, AlpacaTemplate])
def test_sharing_ids_and_rendering_anew_give_the_rows_that_a_reward_model_is_trained_on(tiny, template):
    _, tokenizer = TinyModel().load()
    formatter = PromptFormatter(template(), tokenizer)
    messages = (Message("user", "How are you?"),)
    prompt, response = formatter.encode_prompt(messages), formatter.encode_response(messages, "Fine.")
    whole = formatter.encode([*messages, Message("assistant", "Fine.")]).ids
    batch = PromptBatch(
        prompt_ids=torch.tensor([prompt] * 2),
        prompt_mask=torch.ones(2, len(prompt), dtype=torch.bool),
        row_ids=torch.arange(2),
        details=PromptDetails([formatter.render_prompt(messages)] * 2, [messages] * 2, [{}] * 2),
    )
    # stopped, and cut right before its stop token
    for ids in (response, response[:-1]):
        described = describe_responses(batch, finish_responses(torch.tensor([ids] * 2), formatter.stop_ids), formatter)
        model = scalar_model(tiny, positions=512)
        shared = RewardModelScorer("shared", model, formatter, formatter, batch_size=2)
        anew = RewardModelScorer("anew", model, formatter, formatter, batch_size=2)
        anew.shares_ids = False
        assert shared.shares_ids
        assert shared.rows(described) == anew.rows(described) == [whole, whole]
