import datetime
import json
from decimal import Decimal

import lightning as L
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.data import DemonstrationData, PromptData, RankingData
from lightning_rlhf.data.rows import Tally
from lightning_rlhf.data.storage import cache_folder
from lightning_rlhf.errors import BadRowError, ConfigError, DataError, RecordError, TemplateError
from lightning_rlhf.plugin_system.interfaces import RankingConverter, Segment
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking, Text

# Lightning 2.6.6 under torch 2.13; and it compares our few batches with its logging interval
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


class Negated(RankingConverter):
    def __call__(self, ranks):
        return -ranks[0]


def demonstrations(number, letter="q"):
    return [
        Demonstration((Message("user", letter * (i + 1)), Message("assistant", "a" * i + "b"))) for i in range(number)
    ]


def rankings(number):
    return [Ranking("p" * (i + 1), ("a", "bb", "ccc"), (0, 1, 1)) for i in range(number)]


def ids(batches):
    return [batch.tokens.input_ids.tolist() for batch in batches]


@pytest.fixture
def module(fakes, simple_tokenizer):
    return lambda: fakes.TinyModule(simple_tokenizer)


@pytest.fixture
def demonstration_data(fakes):
    def make(train=11, validation=0, **kwargs):
        source = fakes.ListSource(demonstrations(train), demonstrations(validation, "v"), demonstrations(3, "t"))
        return DemonstrationData(source, fakes.JoinedTemplate(), **{"batch_size": 2, **kwargs})

    return make


class SaveAt(Callback):
    """A checkpoint after one batch, then the run dies."""

    def __init__(self, path, batch):
        self.path, self.batch = path, batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if len(pl_module.seen) == self.batch:
            trainer.save_checkpoint(self.path)
            raise ZeroDivisionError


@pytest.mark.parametrize("killed_after", [2, 4, 6, 8, 12])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_killed_and_resumed_fit_sees_exactly_the_remaining_batches(
    demonstration_data, module, trainer, tmp_path, killed_after, num_workers
):
    kwargs = {"max_epochs": 3, "accumulate_grad_batches": 2}
    whole, cut, resumed = module(), module(), module()
    trainer(**kwargs).fit(whole, datamodule=demonstration_data())
    path = tmp_path / "cut.ckpt"
    with pytest.raises(ZeroDivisionError):
        trainer(**kwargs, callbacks=[SaveAt(path, killed_after)]).fit(
            cut, datamodule=demonstration_data(num_workers=num_workers)
        )
    trainer(**kwargs).fit(
        resumed, datamodule=demonstration_data(num_workers=num_workers), ckpt_path=path, weights_only=True
    )
    assert len(whole.seen) == 18
    assert ids(cut.seen + resumed.seen) == ids(whole.seen)
    assert [int(b.num_targets) for b in cut.seen + resumed.seen] == [int(b.num_targets) for b in whole.seen]


def test_an_end_of_epoch_checkpoint_resumes_with_the_next_epoch(demonstration_data, module, trainer, tmp_path):
    whole, first, second = module(), module(), module()
    trainer(max_epochs=2).fit(whole, datamodule=demonstration_data())
    started = trainer(max_epochs=1)
    started.fit(first, datamodule=demonstration_data())
    started.save_checkpoint(tmp_path / "end.ckpt")
    trainer(max_epochs=2).fit(second, datamodule=demonstration_data(), ckpt_path=tmp_path / "end.ckpt")
    assert ids(first.seen + second.seen) == ids(whole.seen)


@pytest.mark.parametrize(("limit", "accumulate"), [(1.0, 4), (5, 2), (3, 4)])
def test_windows_end_where_the_trainer_steps(demonstration_data, module, trainer, limit, accumulate):
    model = module()
    fitted = trainer(limit_train_batches=limit, accumulate_grad_batches=accumulate, max_epochs=2)
    fitted.fit(model, datamodule=demonstration_data())
    per_epoch = fitted.num_training_batches
    assert len(model.seen) == 2 * per_epoch
    for epoch in range(2):
        batches = model.seen[epoch * per_epoch : (epoch + 1) * per_epoch]
        windows = [batches[start : start + accumulate] for start in range(0, per_epoch, accumulate)]
        for window in windows:
            expected = sum(int((batch.labels[:, 1:] != -100).sum()) for batch in window)
            assert [int(batch.num_targets) for batch in window] == [expected] * len(window)
    assert fitted.global_step == 2 * -(-per_epoch // accumulate)


def test_overfitting_keeps_the_batches(demonstration_data, module, trainer):
    model = module()
    trainer(overfit_batches=2, max_epochs=2).fit(model, datamodule=demonstration_data())
    assert ids(model.seen[:2]) == ids(model.seen[2:])


def test_every_validation_row_is_seen_once(demonstration_data, module, trainer):
    model = module()
    trainer(num_sanity_val_steps=0).fit(model, datamodule=demonstration_data(validation=5))
    rows = [row for batch in model.heldout for row in batch.tokens.attention_mask.sum(-1).tolist()]
    assert len(rows) == 5
    assert len(model.heldout) == 3


def test_a_source_without_validation_rows_fits_without_and_says_so_once(demonstration_data, module, trainer, caplog):
    model = module()
    caplog.set_level("INFO")
    trainer(max_epochs=2).fit(model, datamodule=demonstration_data())
    assert model.heldout == []
    assert caplog.text.count("has no validation rows") == 1


def test_validate_without_rows_is_an_error(demonstration_data, module, trainer):
    with pytest.raises(DataError, match="the validation split of ListSource must hold at least one usable row"):
        trainer().validate(module(), datamodule=demonstration_data(), verbose=False)


def test_fit_without_rows_is_an_error(demonstration_data, module, trainer):
    with pytest.raises(DataError, match="the train split of ListSource must hold at least one usable row, got none"):
        trainer().fit(module(), datamodule=demonstration_data(train=0))


def test_prompts_of_a_split_without_rows_are_an_error(fakes, simple_tokenizer, trainer):
    data, run = PromptData(fakes.ListSource(), fakes.JoinedTemplate()), trainer()
    run.strategy._lightning_module = fakes.TinyModule(simple_tokenizer)
    data.trainer = run
    with pytest.raises(DataError, match="the train split of ListSource must hold at least one usable row, got none"):
        data.train_dataloader()


def test_a_module_without_a_tokenizer_is_refused(demonstration_data, trainer):
    data, run = demonstration_data(), trainer()
    run.strategy._lightning_module = L.LightningModule()
    data.trainer = run
    with pytest.raises(ConfigError, match=r"DemonstrationData must be used with an RLHFModule, .* got LightningModule"):
        _ = data.formatter


def test_test_and_predict_read_the_test_split(demonstration_data, module, trainer):
    model, data = module(), demonstration_data()
    trainer().test(model, datamodule=data, verbose=False)
    assert sum(len(batch.labels) for batch in model.heldout) == 3
    predicted = trainer().predict(model, datamodule=data)
    assert [text for batch in predicted for text in batch.details.texts] == ["t", "tt", "ttt"]
    assert torch.cat([batch.row_ids for batch in predicted]).tolist() == [0, 1, 2]


@pytest.fixture
def longest(demonstration_data, module, trainer):
    """Tokens of the longest training row."""
    data = demonstration_data()
    trainer().fit(module(), data)
    return data.tallies["train"].longest


def test_a_row_that_does_not_fit_the_models_positions_is_an_error(demonstration_data, module, trainer, longest):
    small = module()
    small.max_positions = longest - 1
    with pytest.raises(DataError, match=f"the model's {longest - 1} positions, got one of {longest} tokens"):
        trainer().fit(small, demonstration_data())
    trainer().fit(small, demonstration_data(max_length=longest - 1))


def test_packed_rows_need_positions_for_their_longest_document_only(demonstration_data, module, trainer, longest):
    fits = module()
    fits.max_positions = longest
    trainer().fit(fits, demonstration_data(packing=True, max_length=4 * longest))
    assert max(batch.tokens.input_ids.shape[1] for batch in fits.seen) > longest


def test_packing_fills_rows(demonstration_data, module, trainer):
    plain, packed = module(), module()
    trainer().fit(plain, datamodule=demonstration_data())
    trainer().fit(packed, datamodule=demonstration_data(packing=True, max_length=60, batch_size=1))
    assert all(batch.tokens.input_ids.shape[1] <= 60 for batch in packed.seen)
    assert all(batch.tokens.segment_ids is not None for batch in packed.seen)
    assert sum(int(b.num_targets) for b in packed.seen) == sum(int((b.labels != -100).sum()) for b in plain.seen)


def test_tokenized_rows_are_deleted_with_the_data(demonstration_data, module, trainer):
    model, data, run = module(), demonstration_data(), trainer()
    run.fit(model, datamodule=data)
    assert len(list(cache_folder().iterdir())) == 1
    import gc

    del model, data, run
    gc.collect()
    assert list(cache_folder().iterdir()) == []


def test_bad_rows_are_raised_or_skipped_with_a_warning(fakes, module, trainer):
    bad = BadRowError("rows must be good.", origin="x.jsonl", line=3)
    source = fakes.ListSource([*demonstrations(2), bad])
    with pytest.raises(BadRowError, match=r"x\.jsonl:3"):
        trainer().fit(module(), datamodule=DemonstrationData(source, fakes.JoinedTemplate()))
    data = DemonstrationData(source, fakes.JoinedTemplate(), on_bad_row="skip")
    with pytest.warns(
        UserWarning, match=r"train: 2 rows, 1 bad rows skipped \(the first: x\.jsonl:3: rows must be good\)"
    ):
        trainer().fit(module(), datamodule=data)
    assert data.tallies["train"].num_skipped == 1


def test_a_checkpoint_with_a_data_module_loads_weights_only(demonstration_data, module, trainer, tmp_path):
    run = trainer()
    run.fit(module(), datamodule=demonstration_data())
    run.save_checkpoint(tmp_path / "x.ckpt")
    assert "datamodule_hyper_parameters" not in torch.load(tmp_path / "x.ckpt", weights_only=True)


def test_rankings_are_counted_by_prompt_and_ties_left_out(fakes, module, trainer):
    tied = [Ranking("p", ("a", "b"), (0, 0))] * 2
    source = fakes.ListSource([*rankings(5), *tied], rankings(2), tied)
    data = RankingData(source, fakes.JoinedTemplate(), batch_size=2, converter=Negated())
    model = module()
    trainer(accumulate_grad_batches=2, num_sanity_val_steps=0).fit(model, datamodule=data)
    assert [int(batch.num_prompts) for batch in model.seen] == [4, 4, 1]
    assert data.tallies["train"].num_unordered == 2
    assert model.heldout[0].ranks.tolist() == [[0, 1, 1]] * 2
    assert sum(len(batch.ranks) for batch in data.unshuffled_train_dataloader()) == 5
    predicted = trainer().predict(model, datamodule=data)
    assert [batch.candidate_mask.all().item() for batch in predicted] == [True]


class Rollouts:
    def __init__(self, prompts):
        self.prompts = prompts

    def __iter__(self):
        return iter([self.prompts.batch([0])])

    def __len__(self):
        return 1


class PromptModule:
    """What PromptData asks of a module."""

    def rollout_loader(self, prompts):
        self.prompts = prompts
        return Rollouts(prompts)


def test_prompt_data_trains_on_the_modules_rollout_loader(fakes, simple_tokenizer, trainer):
    class Module(PromptModule, fakes.TinyModule):
        pass

    source = fakes.ListSource([Prompt("abc", {"label": 1}), Prompt("de")], [Prompt("f")])
    data = PromptData(
        source, fakes.JoinedTemplate(), batch_size=7, ptx_source=fakes.ListSource([Text("xy"), Text("z")])
    )
    model = Module(simple_tokenizer)
    trainer(num_sanity_val_steps=0).fit(model, datamodule=data)
    assert (len(model.prompts), model.prompts.batch_size) == (2, 7)
    batch = model.prompts.batch([1, 0])
    assert batch.details.texts == ["de", "abc"]
    assert batch.details.columns == [{}, {"label": 1}]
    assert batch.row_ids.tolist() == [1, 0]
    assert model.heldout[0].details.texts == ["f"]


def test_times_and_decimals_become_text_and_bytes_are_left_out_with_one_warning(
    fakes, simple_tokenizer, trainer, tmp_path
):
    class Module(PromptModule, fakes.TinyModule):
        pass

    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    rows = [
        {"prompt": letter, "when": when, "days": [when.date()], "price": Decimal("0.10"), "took": when - when}
        | {"image": {"bytes": b"\x89", "path": "a.png"}, "parts": [b"a", b"b"], "level": 1}
        for letter in "ab"
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    model = Module(simple_tokenizer)
    data = PromptData(FileSource(str(tmp_path / "rows.parquet")), fakes.JoinedTemplate())
    with pytest.warns(UserWarning, match="got bytes in") as caught:
        trainer(num_sanity_val_steps=0).fit(model, datamodule=data)
    assert ["'image.bytes', 'parts'. They are left out" in str(each.message) for each in caught].count(True) == 1
    assert model.prompts.batch([1]).details.columns == [
        {"when": "2026-01-02T03:04:05", "days": ["2026-01-02"], "price": "0.10", "took": "0:00:00"}
        | {"image": {"path": "a.png"}, "level": 1}
    ]


def test_ptx_batches_walk_through_the_rows_by_step(fakes, simple_tokenizer, trainer):
    from lightning_rlhf.data import PtxBatches

    class Module(PromptModule, fakes.TinyModule):
        pass

    texts = fakes.ListSource([Text("x" * (i + 1)) for i in range(5)])
    data = PromptData(fakes.ListSource([Prompt("a")]), fakes.JoinedTemplate(), ptx_source=texts)
    trainer().fit(Module(simple_tokenizer), datamodule=data)
    batches = data.ptx_batches()
    seen = [length for step in range(5) for length in batches.batch(step, 2).tokens.attention_mask.sum(-1).tolist()]
    assert sorted(seen[:5]) == sorted(seen[5:])
    assert len(set(seen[:5])) == 5
    parts = [PtxBatches(batches.rows, seed=3, rank=rank, num_ranks=2) for rank in range(2)]
    assert [ids([part.batch(step, 1)])[0] for step in range(2) for part in parts] == [
        [row[: sum(mask)]]
        for step in range(2)
        for row, mask in zip(
            batches.batch(step, 2).tokens.input_ids.tolist(),
            batches.batch(step, 2).tokens.attention_mask.tolist(),
            strict=True,
        )
    ]


def test_prompt_data_without_a_ptx_source_has_no_ptx_batches(fakes):
    assert PromptData(fakes.ListSource()).ptx_batches() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
        ({"num_workers": -1}, "num_workers must be 0 or more, got -1"),
        ({"on_bad_row": "ignore"}, "on_bad_row must be one of error, skip, got 'ignore'"),
        ({"supervise": "first"}, "supervise must be one of all, last, got 'first'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(demonstration_data, arguments, message):
    with pytest.raises(ConfigError, match=message):
        demonstration_data(**arguments)


def test_a_data_module_without_trainer_says_what_is_missing(demonstration_data):
    with pytest.raises(ConfigError, match="must be attached to a Trainer"):
        demonstration_data().train_dataloader()


def test_a_failure_in_another_process_stops_this_one(demonstration_data, module, trainer, monkeypatch):
    run = trainer()
    monkeypatch.setattr(run.strategy, "reduce_boolean_decision", lambda *_, **__: False)
    with pytest.raises(DataError, match="got an error in another"):
        run.fit(module(), datamodule=demonstration_data())


def test_two_ranks_read_one_file_and_share_the_rows(demonstration_data, module, trainer, monkeypatch):
    model, data, run = module(), demonstration_data(), trainer()
    run.fit(model, datamodule=data)
    shards = []
    for rank in range(2):
        monkeypatch.setattr(DemonstrationData, "_shard", (rank, 2))
        shards.append(list(data.train_dataloader()))
    assert len(shards[0]) == len(shards[1]) == 3
    lengths = [int(mask.sum()) for shard in shards for batch in shard for mask in batch.tokens.attention_mask]
    assert len(lengths) == 12
    assert len(set(lengths)) == 11


def test_too_few_held_out_rows_for_the_ranks_are_an_error(demonstration_data, module, trainer, monkeypatch):
    monkeypatch.setattr(DemonstrationData, "_shard", (0, 4))
    with pytest.raises(DataError, match=r"validation split must hold at least one row per rank \(4\), got 3"):
        trainer().validate(module(), datamodule=demonstration_data(validation=3), verbose=False)


def test_a_record_error_of_the_source_itself_is_not_hidden(fakes, module, trainer):
    class Failing(fakes.ListSource):
        def load(self, split):
            raise RecordError("broken.")

    with pytest.raises(RecordError, match="broken"):
        trainer().fit(module(), datamodule=DemonstrationData(Failing(), fakes.JoinedTemplate()))


def test_margins_that_would_not_be_learned_are_refused(module, trainer, fakes):
    source = fakes.ListSource([Ranking("p", ("a", "b"), (0, 1), margin=1.0), Ranking("q", ("a", "b"), (0, 1))])
    data, model = RankingData(source, fakes.JoinedTemplate(), converter=Negated()), module()
    model.margin_scale = 0.0
    with pytest.raises(DataError, match="got 1 with a field 'margin' and a margin_scale of 0"):
        trainer().fit(model, datamodule=data)
    model.margin_scale = 1.0
    trainer().fit(model, datamodule=data)


def test_a_fraction_that_holds_out_no_row_says_so_with_its_numbers(module, trainer, fakes, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n' * 12, encoding="utf-8")
    data = DemonstrationData(FileSource(str(path), val_fraction=0.01), fakes.JoinedTemplate())
    with pytest.warns(UserWarning, match=r"val_fraction 0\.01 of 12 rows holds out none"):
        trainer().fit(module(), datamodule=data)


@pytest.mark.parametrize("place", [0, 2])
def test_a_row_without_its_response_is_a_bad_row_wherever_it_stands(module, trainer, fakes, tmp_path, place):
    rows = [{"prompt": "hi", "response": "hello"}, {"prompt": "hello", "response": "hi"}]
    rows.insert(place, {"prompt": "hi", "response": None})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = DemonstrationData(FileSource(str(path)), fakes.JoinedTemplate())
    with pytest.raises(BadRowError, match=rf"rows\.jsonl:{place + 1}: a demonstration row must have .*got null"):
        trainer().fit(module(), datamodule=data)
    data = DemonstrationData(FileSource(str(path)), fakes.JoinedTemplate(), on_bad_row="skip")
    with pytest.warns(UserWarning, match="2 rows, 1 bad rows skipped"):
        trainer().fit(module(), datamodule=data)


def test_a_row_that_the_template_refuses_is_a_bad_row_with_its_place(module, trainer, fakes, tmp_path):
    class WithoutSystem(fakes.JoinedTemplate):
        def render(self, messages):
            if messages[0].role == "system":
                raise TemplateError("no place for a system turn.")
            return super().render(messages)

    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": turns}, {"messages": [{"role": "system", "content": "be kind"}, *turns]}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(BadRowError, match=r"rows\.jsonl:2: no place for a system turn"):
        trainer().fit(module(), datamodule=DemonstrationData(FileSource(str(path)), WithoutSystem()))
    data = DemonstrationData(FileSource(str(path)), WithoutSystem(), on_bad_row="skip")
    with pytest.warns(UserWarning, match="1 rows, 1 bad rows skipped"):
        trainer().fit(module(), datamodule=data)


@pytest.mark.parametrize("packing", [False, True])
def test_a_stream_gives_the_rows_that_training_stores_and_writes_nothing(demonstration_data, module, trainer, packing):
    data = demonstration_data(packing=packing, max_length=20)
    trainer(callbacks=[]).fit(module(), datamodule=data)
    stored = data.stored("train", data.tokenization).__getitems__(range(3))
    before = set(cache_folder().rglob("*"))
    tally = Tally()
    streamed = list(data.stream("train", tally))
    assert streamed[:3] == stored
    assert set(cache_folder().rglob("*")) == before
    assert any(len(row["lengths"]) > 1 for row in streamed) == packing


def test_a_stream_may_skip_bad_rows_where_training_would_stop(fakes, module, trainer):
    rows = [BadRowError("it must be good.", origin="rows", line=1), *demonstrations(3)]
    data = DemonstrationData(fakes.ListSource(rows), fakes.JoinedTemplate())
    data.trainer = trainer()
    data.trainer.strategy.connect(module())
    tally = Tally()
    assert len(list(data.stream("train", tally, on_bad_row="skip"))) == 3
    assert (tally.num_skipped, tally.first_skipped) == (1, "rows:1: it must be good.")
    with pytest.raises(BadRowError):
        list(data.stream("train", Tally()))


def test_rows_of_similar_length_share_a_batch_where_that_is_asked_for(demonstration_data, module, trainer):
    grouped = module()
    trainer().fit(grouped, datamodule=demonstration_data(train=24, group_by_length=True))
    lengths = [batch.tokens.attention_mask.sum(-1) for batch in grouped.seen]
    assert sum(len(batch) for batch in lengths) == 24
    assert all(batch.max() - batch.min() <= 2 for batch in lengths)  # neighbours differ by a letter of each turn


def test_packed_rows_are_not_grouped_by_length(demonstration_data):
    with pytest.raises(ConfigError, match="group_by_length must be false with packing"):
        demonstration_data(packing=True, group_by_length=True)


def test_a_run_refuses_the_template_that_doctor_fails(fakes, module, trainer):
    class Thinking(fakes.JoinedTemplate):
        def generation_prompt(self, messages):
            return [*self.render(messages), Segment("Think! ", False)]

    data = DemonstrationData(fakes.ListSource(demonstrations(3)), Thinking(), batch_size=2)
    with pytest.raises(TemplateError, match=r"Thinking must be sound: what generation continues is not what training"):
        trainer().fit(module(), data)


def test_a_dialogue_whose_history_is_written_otherwise_becomes_a_row_per_answer(fakes, module, trainer):
    class Forgetful(fakes.JoinedTemplate):
        """Writes a mark into the last answer that the history drops."""

        def render(self, messages):
            last = len(messages) - 1
            return [
                Segment(f"!{turn.content}" if place == last else turn.content, place == last)
                for place, turn in enumerate(messages)
            ]

        def turn_ends(self, messages):
            return [place + 1 for place, turn in enumerate(messages) if turn.role == "assistant"]

        def generation_prompt(self, messages):
            return [Segment(turn.content, False) for turn in messages]

    turns = [Message("user", "ab"), Message("assistant", "c"), Message("user", "d"), Message("assistant", "e")]
    data = DemonstrationData(fakes.ListSource([Demonstration(tuple(turns))]), Forgetful(), batch_size=1)
    made = module()
    trainer().fit(made, data)
    texts = sorted(made.tokenizer.decode(batch.tokens.input_ids[0]) for batch in made.seen)
    assert texts == ["ab!c</s>", "abcd!e</s>"]


@pytest.mark.parametrize(("num_embeddings", "is_refused"), [(5, True), (100_000, False)])
def test_tokens_without_an_embedding_are_refused_before_the_first_step(
    demonstration_data, module, trainer, num_embeddings, is_refused
):
    stage = module()
    stage.num_embeddings = num_embeddings
    if is_refused:
        with pytest.raises(DataError, match=r"must be among the 5 that the model embeds, got '.+' with the id \d+\."):
            trainer(max_epochs=1).fit(stage, datamodule=demonstration_data())
        assert not stage.seen
    else:
        trainer(max_epochs=1).fit(stage, datamodule=demonstration_data())
