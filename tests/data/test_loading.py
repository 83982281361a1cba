import pytest
import torch

from lightning_rlhf.data.collation import collate_demonstrations
from lightning_rlhf.data.loading import BatchLoader, WindowLoader
from lightning_rlhf.data.rows import DemonstrationRows
from lightning_rlhf.data.sampling import EpochSampler
from lightning_rlhf.data.storage import StoredRows, store_rows
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.records import Demonstration, Message

NUM_ROWS = 11


@pytest.fixture
def rows(fakes, tmp_path):
    records = [
        Demonstration((Message("user", "q" * (i + 1)), Message("assistant", "a" * i + "b"))) for i in range(NUM_ROWS)
    ]
    formatter = PromptFormatter(fakes.JoinedTemplate(), fakes.byte_tokenizer())
    tokenization = DemonstrationRows(formatter, 99)
    store_rows(tmp_path / "rows", fakes.ListSource(records), "train", tokenization, on_bad_row="error")
    return StoredRows(tmp_path / "rows")


def loader_of(rows, *, batch_size=2, window=2, limit=float("inf"), rank=0, num_ranks=1, epoch=0, **kwargs):
    sampler = EpochSampler(len(rows), batch_size, seed=1, rank=rank, num_ranks=num_ranks)
    sampler.set_epoch(epoch)
    return WindowLoader(
        rows,
        sampler,
        collate_demonstrations,
        count_names=("num_targets", "num_tokens"),
        window=lambda: window,
        limit=lambda: limit,
        **kwargs,
    )


def own_counts(batch):
    return int((batch.labels[:, 1:] != -100).sum()), int(batch.tokens.attention_mask[:, 1:].sum())


def ids(batches):
    return [batch.tokens.input_ids.tolist() for batch in batches]


@pytest.mark.parametrize("window", [1, 2, 4, 100])
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("limit", [float("inf"), 3])
def test_each_batch_has_the_counts_of_its_window_over_all_ranks(rows, window, num_ranks, limit):
    parts = [
        list(loader_of(rows, window=window, limit=limit, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)
    ]
    end = len(parts[0])
    assert end == min(limit, -(-NUM_ROWS // (2 * num_ranks)))
    for start in range(0, end, window):
        batches = [batch for part in parts for batch in part[start : start + window]]
        expected = tuple(map(sum, zip(*map(own_counts, batches), strict=True)))
        for batch in batches:
            assert (int(batch.num_targets), int(batch.num_tokens)) == expected
            assert batch.num_targets.dtype == torch.int64


def test_it_is_sized_and_repeats_itself_within_an_epoch_only(rows):
    loader = loader_of(rows)
    assert len(loader) == 6
    first = ids(loader)
    assert ids(loader) == first
    loader.batch_sampler.sampler.set_epoch(1)
    assert ids(loader) != first


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_loader_that_has_handed_out_nothing_says_so(rows):
    """A checkpoint may be written before the first batch; what is resumed from it sees every batch."""
    loader = loader_of(rows)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, 0)
    again = loader_of(rows)
    again.load_state_dict(loader.state_dict())
    assert ids(again) == ids(loader_of(rows))
    late = loader_of(rows, epoch=3)
    next(iter(late))
    assert (late.state_dict()["epoch"], late.state_dict()["position"]) == (3, 1)


def test_workers_change_nothing(rows):
    assert ids(loader_of(rows, num_workers=2)) == ids(loader_of(rows))


def test_the_global_random_state_is_left_alone(rows):
    before = torch.get_rng_state()
    list(loader_of(rows))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stop", range(7))
def test_a_restored_loader_yields_exactly_what_is_left_with_the_same_counts(rows, stop):
    whole = list(loader_of(rows, window=4, epoch=2))
    cut = loader_of(rows, window=4, epoch=2)
    iterator = iter(cut)
    taken = [next(iterator) for _ in range(stop)]
    resumed = loader_of(rows, window=4, epoch=2)
    resumed.load_state_dict(cut.state_dict() if stop else loader_of(rows).state_dict())
    assert resumed.state_dict()["position"] == stop
    rest = list(resumed)
    assert ids(taken + rest) == ids(whole)
    assert [int(batch.num_targets) for batch in taken + rest] == [int(batch.num_targets) for batch in whole]


def test_after_the_restored_epoch_the_next_one_starts_at_its_beginning(rows):
    cut = loader_of(rows)
    list(cut)
    resumed = loader_of(rows, epoch=1)
    resumed.load_state_dict(cut.state_dict())
    assert ids(resumed) == ids(loader_of(rows, epoch=1))


def test_a_position_in_an_epoch_cut_otherwise_is_refused(rows):
    cut = loader_of(rows)
    next(iter(cut))
    with pytest.raises(ConfigError, match="got batch_size over all processes 2 -> 3, batches per epoch 6 -> 4"):
        loader_of(rows, batch_size=3).load_state_dict(cut.state_dict())
    list(cut)
    loader_of(rows, batch_size=3).load_state_dict(cut.state_dict())


def test_a_batch_loader_yields_its_batches_each_time(rows):
    loader = BatchLoader(rows, [[0, 2], [1]], collate_demonstrations)
    assert len(loader) == 2
    assert [len(batch.labels) for batch in loader] == [2, 1]
    assert ids(loader) == ids(loader)
    assert not hasattr(loader, "state_dict")
