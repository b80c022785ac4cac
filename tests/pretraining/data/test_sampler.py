"""Batches: everything once per epoch, bounded cost, little padding, the same number on every rank, repeatable."""

from collections import Counter

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler, skip_first_batches
from torch.utils.data import DataLoader

from data2vec.pretraining.data.sampler import BatchSampler, FixedBatches


def speech_lengths(size: int) -> np.ndarray:
    """Samples of clips as in a speech corpus: 2 to 20 s, most of them 12 to 16."""
    rng = np.random.default_rng(0)
    return (
        np.clip(np.where(rng.random(size) < 0.7, rng.normal(14, 1.5, size), rng.uniform(2, 20, size)), 2, 20) * 16000
    ).astype(int)


def epoch_of(sampler: BatchSampler, epoch: int) -> list[list[tuple[int, int]]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_example_once_an_epoch_within_the_cost_and_little_padding():
    lengths, cost = speech_lengths(3001), 225 * 16000
    sampler = BatchSampler(lengths, len(lengths), seed=3, batch_cost=cost)
    for epoch in (0, 1, 5):
        batches = epoch_of(sampler, epoch)
        assert sorted(index for batch in batches for _, index in batch) == list(range(3001))
        assert {passed for batch in batches for passed, _ in batch} == {epoch}
        padded = [len(batch) * max(lengths[i] for _, i in batch) for batch in batches]
        assert max(padded) <= cost
        assert 1 - lengths.sum() / sum(padded) < 0.05
        assert np.mean(np.array(padded) > 0.85 * cost) > 0.9  # and the batches are full
    shuffled = np.random.default_rng(0).permutation(lengths)[: 3001 // 16 * 16].reshape(-1, 16)
    assert 1 - shuffled.mean() / shuffled.max(1).mean() > 0.2  # what bucketing saves


def test_a_seed_and_an_epoch_say_everything():
    lengths = speech_lengths(211)
    make = lambda seed: BatchSampler(lengths, 211, seed=seed, batch_cost=60 * 16000)  # noqa: E731
    assert epoch_of(make(1), 2) == epoch_of(make(1), 2)
    assert epoch_of(make(1), 2) != epoch_of(make(2), 2)
    first, second = epoch_of(make(1), 0), epoch_of(make(1), 1)
    without_pass = [{frozenset(i for _, i in batch) for batch in epoch} for epoch in (first, second)]
    assert len(without_pass[0] & without_pass[1]) < 0.2 * len(first)  # other companions, not only another order


@pytest.mark.parametrize("multiple", [1, 3, 16])
@pytest.mark.parametrize("size", [97, 1009])
def test_all_epochs_have_the_same_number_of_batches(size, multiple):
    lengths = speech_lengths(size)
    sampler = BatchSampler(lengths, size, seed=0, batch_cost=90 * 16000, num_batches_multiple=multiple)
    weighted = BatchSampler(
        lengths, size, seed=0, batch_cost=90 * 16000, sizes=[size // 3, size - size // 3], shares=[0.8, 0.2],
        num_batches_multiple=multiple,
    )  # fmt: skip
    for one in (sampler, weighted):
        assert {len(epoch_of(one, epoch)) for epoch in range(6)} == {len(one)}
        assert len(one) % multiple == 0
        assert all(batch for batch in one)
    assert sorted(index for batch in sampler for _, index in batch) == list(range(size))


@pytest.mark.parametrize("even_batches", [False, True])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_get_equally_many_batches_and_none_twice(ranks, even_batches):
    def sampler() -> BatchSampler:
        return BatchSampler(speech_lengths(311), 311, seed=0, batch_cost=50 * 16000, num_batches_multiple=ranks)

    shards = [BatchSamplerShard(sampler(), ranks, rank, even_batches=even_batches) for rank in range(ranks)]
    shares = [list(shard) for shard in shards]
    assert len({len(share) for share in shares}) == 1
    assert {len(shard) for shard in shards} == {len(shares[0])}
    seen = [index for share in shares for batch in share for _, index in batch]
    assert sorted(seen) == list(range(311))


def test_a_fixed_count_without_lengths():
    sampler = BatchSampler(None, 1437, seed=0, batch_size=16)
    sizes = [len(batch) for batch in sampler]
    assert sorted(index for batch in sampler for _, index in batch) == list(range(1437))
    assert max(sizes) == 16 and len(sizes) == len(sampler) == 90
    assert sorted(len(batch) for batch in BatchSampler(None, 33, seed=0, batch_size=16)) == [8, 9, 16]  # none of 1


def test_both_bounds_hold():
    lengths = np.array([1] * 50 + [100] * 50)
    batches = list(BatchSampler(lengths, 100, seed=0, batch_size=20, batch_cost=1000))
    assert max(map(len, batches)) == 20
    assert max(len(batch) * max(lengths[i] for _, i in batch) for batch in batches) <= 1000


def test_shares_mix_sources_and_no_key_comes_twice():
    sizes, shares = [300, 1000, 40], [0.5, 0.3, 0.2]  # 670, 402 and 268 of 1340 draws per epoch
    lengths = speech_lengths(1340)
    sampler = BatchSampler(lengths, 1340, seed=0, batch_cost=10**6, sizes=sizes, shares=shares)
    source = np.repeat(range(3), sizes)
    keys = [[key for batch in epoch_of(sampler, epoch) for key in batch] for epoch in range(5)]
    for drawn in keys:
        counts = Counter(source[index] for _, index in drawn)
        assert [counts[s] for s in range(3)] == pytest.approx([670, 402, 268], abs=12)
    everything = [key for drawn in keys for key in drawn]
    assert len(set(everything)) == len(everything)
    # Passes are whole: the large source is read through before anything of it repeats.
    times_seen = Counter(index for _, index in everything if source[index] == 1)
    assert len(times_seen) == 1000 and max(times_seen.values()) - min(times_seen.values()) <= 1


def test_resuming_in_an_epoch_gives_its_remaining_batches():
    sampler = BatchSampler(speech_lengths(211), 211, seed=0, batch_cost=60 * 16000, num_batches_multiple=2)
    straight = epoch_of(sampler, 3)
    resumed = BatchSampler(speech_lengths(211), 211, seed=0, batch_cost=60 * 16000, num_batches_multiple=2)
    resumed.set_epoch(3)
    shard = SkipBatchSampler(BatchSamplerShard(resumed, 2, 1, even_batches=False), skip_batches=4)
    assert list(shard) == straight[1::2][4:]


def test_accelerate_advances_the_epoch():
    class Keys:
        def __len__(self) -> int:
            return 23

        def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
            return key

    sampler = BatchSampler(None, 23, seed=0, batch_size=5)
    loader = Accelerator(cpu=True).prepare(DataLoader(Keys(), batch_sampler=sampler, collate_fn=list))
    first, second = list(loader), list(loader)
    assert [first, second] == [epoch_of(sampler, 0), epoch_of(sampler, 1)]
    loader.set_epoch(7)
    assert list(skip_first_batches(loader, 2)) == epoch_of(sampler, 7)[2:]


def test_evaluation_batches_never_change():
    fixed = FixedBatches(BatchSampler(None, 23, seed=0, batch_size=5))
    loader = DataLoader(range(23), batch_sampler=fixed, collate_fn=list)
    assert list(fixed) == list(fixed) == epoch_of(BatchSampler(None, 23, seed=0, batch_size=5), 0)
    assert len(loader) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": None}, "per_device_train_batch_size"),
        ({"lengths": [5, 7], "batch_cost": 6}, "7.*batch_cost = 6"),
        ({"lengths": None, "batch_cost": 6}, "batch_cost = 6"),
        ({"lengths": None, "batch_size": 2, "num_batches_multiple": 3}, "2 examples do not make 3 batches"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchSampler(size=2, seed=0, **arguments)


@pytest.mark.parametrize("size", [64, 67, 71, 103])
@pytest.mark.parametrize("lengths", [False, True])
def test_a_step_sees_the_same_examples_however_it_is_split(size, lengths):
    """16 examples per step: 1 x 16, 2 x 8 and 8 x 2 (ranks * accumulation x batch); also the rest of an epoch."""
    long = np.random.default_rng(0).integers(5, 60, size) if lengths else None

    def steps(batch_size, parts, epoch):
        sampler = BatchSampler(long, size, seed=3, batch_size=batch_size, num_batches_multiple=parts)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert all(1 <= len(batch) <= batch_size for batch in batches) and len(batches) % parts == 0
        for i in range(0, len(batches), parts):
            sizes = [len(batch) for batch in batches[i : i + parts]]
            assert max(sizes) - min(sizes) <= 1  # no rank waits long for another
        return [sorted(sum(batches[i : i + parts], [])) for i in range(0, len(batches), parts)]

    for epoch in (0, 1):
        one = steps(16, 1, epoch)
        assert steps(8, 2, epoch) == one and steps(2, 8, epoch) == one
        assert sorted(index for step in one for _, index in step) == list(range(size))


def test_one_example_a_rank_is_refused_where_some_would_be_left_over():
    assert len(BatchSampler(None, 1000, seed=0, batch_size=1, num_batches_multiple=4)) == 1000
    with pytest.raises(ValueError, match="1001 examples do not make 1004 batches"):
        BatchSampler(None, 1001, seed=0, batch_size=1, num_batches_multiple=4)
