"""Whose turn it is in a joint run, and what its batches hold."""

from collections import Counter

import numpy as np
import pytest
import soundfile

from data2vec.pretraining.arguments import resolve
from data2vec.pretraining.data.sampler import BatchSampler
from data2vec.pretraining.modalities.joint import JointSampler
from data2vec.pretraining.run import open_data
from data2vec.tests.pretraining.tiny_runs import JOINT, recipe, write_sources


SIZES = {"audio": 53, "image": 31, "text": 17}
NOTHING = dict.fromkeys(SIZES)


def sampler_of(weights=NOTHING, together=1, batch_size=4):
    how = {"seed": 3, "batch_size": batch_size, "num_batches_multiple": together}
    samplers = {name: BatchSampler(None, size, **how) for name, size in SIZES.items()}
    return JointSampler(samplers, weights, seed=3, batches_per_update=together)


def batches(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("together", [1, 4])
def test_an_update_is_of_one_modality(together):
    """So many batches in a row, which are dealt out to ranks and accumulated batches."""
    sampler = sampler_of(together=together)
    found = batches(sampler, 2)
    assert len(found) == len(sampler) and len(found) % together == 0
    names = [{name for name, _ in batch} for batch in found]
    updates = [set.union(*names[i : i + together]) for i in range(0, len(names), together)]
    assert all(len(update) == 1 for update in updates) and len({*map(tuple, updates)}) == 3
    assert [*map(str, sampler.order(2))] == [name for (name,) in updates]


def test_without_weights_an_epoch_passes_every_example_once():
    sampler = sampler_of()
    for epoch in range(3):
        seen = Counter(name for batch in batches(sampler, epoch) for name, _ in batch)
        keys = {key for batch in batches(sampler, epoch) for key in batch}
        assert seen == SIZES and keys == {(n, (epoch, i)) for n, size in SIZES.items() for i in range(size)}
    assert sampler.order(0) != sampler.order(1) and sampler.order(1) == sampler_of().order(1)


def test_weights_are_shares_of_the_updates_and_passes_go_on():
    """A modality goes on where it was: over the run each example is read as often as any other, or once more."""
    sampler = sampler_of({"audio": None, "image": 2.0, "text": 1.0})
    total = sum(sampler.turns.values())
    assert {name: turns / total for name, turns in sampler.turns.items()} == pytest.approx(
        {"audio": 0.25, "image": 0.5, "text": 0.25}, abs=0.05
    )
    reads = Counter(key for epoch in range(7) for batch in batches(sampler, epoch) for key in batch)
    assert max(reads.values()) == 1  # a pass of its own numbers each reading
    for name, size in SIZES.items():
        times = Counter(index for (own, (_, index)), _ in reads.items() if own == name)
        assert len(times) == size and max(times.values()) - min(times.values()) <= 1


def test_another_split_of_the_same_batch_has_the_same_updates():
    one, other = sampler_of(batch_size=8), sampler_of(batch_size=2, together=4)
    for epoch in range(2):
        whole, parts = batches(one, epoch), batches(other, epoch)
        joined = [sorted(sum(parts[i : i + 4], [])) for i in range(0, len(parts), 4)]
        assert [sorted(batch) for batch in whole] == joined


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources") / "data"
    write_sources(folder)
    return folder


def test_a_batch_is_that_of_its_modality_alone(sources, tmp_path):
    """What a run of it alone would read at this key, with the modality's name."""
    fields = recipe(JOINT, sources, tmp_path / "run", gradient_accumulation_steps=2)
    joint = open_data(resolve(fields))
    assert joint.batch_sampler.batches_per_update == 2
    for name, part in joint.parts.items():
        keys = next(batch for batch in joint.batch_sampler if batch[0][0] == name)
        examples = [joint.train_dataset[key] for key in keys]
        batch = joint.collator(examples)
        single = open_data(resolve(recipe(f"{name}-2", sources, tmp_path / name, gradient_accumulation_steps=2)))
        expected = single.collator([single.train_dataset[key] for _, key in keys])
        assert batch.pop("modality") == name and batch.keys() == expected.keys()
        assert all(np.array_equal(batch[field], expected[field]) for field in expected)
        assert name in joint.describe() and part is joint.modalities[name]


def test_bad_files_are_counted_by_modality(sources, tmp_path):
    fields = recipe(JOINT, sources, tmp_path / "run")
    clips = tmp_path / "clips"
    clips.mkdir()
    for i in range(20):
        soundfile.write(clips / f"{i}.wav", np.random.default_rng(i).standard_normal(4000) / 10, 16000)
    (clips / "x.wav").write_bytes(b"<html>")
    (clips / "y.wav").write_bytes(b"")
    fields["modalities"]["audio"]["data"] |= {"sources": [{"path": str(clips)}], "max_bad_share": 0.5}
    data = open_data(resolve(fields))
    data.record_skipped(tmp_path / "run", 0)
    assert data.skipped() == {"vision/train": {}, "text/train": {}, "audio/train": {"wrong type": 1, "empty": 1}}
    lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all('"part": "audio/train"' in line for line in lines)


def test_a_stream_is_refused(sources, tmp_path):
    run = resolve(recipe(JOINT, sources, tmp_path / "run", streaming=True))
    with pytest.raises(ValueError, match=r"modalities\.vision\.data\.streaming = True: must be false"):
        open_data(run)


def test_what_prepares_inputs_lies_in_a_folder_of_the_modality(sources, tmp_path):
    open_data(resolve(recipe(JOINT, sources, tmp_path / "run"))).processor.save_pretrained(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")}
    assert {"audio/preprocessor_config.json", "vision/preprocessor_config.json", "text/tokenizer.json"} <= names
