"""Streams: every row once per pass over all ranks and workers, bounded batches, repeatable, and without an end."""

import logging
from collections import Counter
from itertools import islice

import datasets
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader
from transformers import Data2VecAudioConfig, Data2VecTextConfig

from data2vec.modeling.configuration_objective import ObjectiveConfig
from data2vec.pretraining.data.streaming import StreamingBatches
from data2vec.pretraining.modalities.audio import AudioData, AudioDataArguments
from data2vec.pretraining.modalities.build import build_data
from data2vec.pretraining.modalities.text import TextData, TextDataArguments
from data2vec.pretraining.train_tokenizer import train_tokenizer


OBJECTIVE = ObjectiveConfig.from_dict({"masking": {"method": "span", "length": 2}})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """47 clips of 0.5 to 1.4 s; the length says which one it is."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(47):
        noise = np.random.default_rng(i).standard_normal(8000 + 300 * i) / 10
        soundfile.write(folder / f"{i:02}.wav", noise, 16000)
    return folder


def audio_stream(clips, shards=7, **how) -> StreamingBatches:
    args = AudioDataArguments(sources=[{"path": "unused"}], min_seconds=0.0, max_seconds=2, batch_seconds=6)
    paths = datasets.Dataset.from_dict({"audio": sorted(map(str, clips.glob("*.wav")))})
    how = {"batch_cost": args.batch_cost, "shuffle_buffer": 10, "seed": 3} | how
    return StreamingBatches(
        [paths.to_iterable_dataset(num_shards=shards)], AudioData(args, Data2VecAudioConfig()), **how
    )


def passes(batches, count: int) -> list[dict]:
    """Examples of the stream until `count` were seen."""
    seen: list[dict] = []
    for batch in batches:
        seen += batch
        if len(seen) >= count:
            break
    return seen


def test_batches_are_bounded_and_little_padded(clips):
    examples, padded, real = [], 0, 0
    for batch in islice(audio_stream(clips), 60):
        lengths = [len(example["input_values"]) for example in batch]
        assert len(batch) * max(lengths) <= 6 * 16000
        padded, real = padded + len(batch) * max(lengths), real + sum(lengths)
        examples += batch
    assert 1 - real / padded < 0.1
    assert padded / 60 > 0.8 * 6 * 16000
    assert max(example["epoch"] for example in examples) > 3  # pass follows pass
    assert {len(e["input_values"]) for e in examples if e["epoch"] == 0} == {8000 + 300 * i for i in range(47)}


@pytest.mark.parametrize("shards", [1, 6])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_row_once_a_pass_over_all_ranks_and_workers(clips, ranks, workers, shards):
    seen = []
    for rank in range(ranks):
        stream = audio_stream(clips, shards, num_processes=ranks, process_index=rank, batch_size=1, batch_cost=None)
        loader = DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=list)
        seen += passes(loader, 2 * 47 // ranks)
    first = [example for example in seen if example["epoch"] == 0]
    assert sorted(len(example["input_values"]) for example in first) == [8000 + 300 * i for i in range(47)]
    assert len({example["index"] for example in first}) == 47  # so no two have the same masks


def test_a_stream_repeats_itself_and_shuffles_anew_every_pass(clips):
    one, other = (passes(audio_stream(clips), 400) for _ in range(2))
    assert all(torch.equal(a["input_values"], b["input_values"]) for a, b in zip(one, other, strict=True))
    order = [[len(e["input_values"]) for e in one if e["epoch"] == epoch] for epoch in (0, 1)]
    assert order[0] != order[1] and sorted(order[0]) == sorted(order[1])
    later = audio_stream(clips)
    later.set_epoch(5)
    assert next(iter(later))[0]["epoch"] == 5
    reseeded = passes(audio_stream(clips, seed=4), 400)
    assert [len(e["input_values"]) for e in reseeded] != [len(e["input_values"]) for e in one]


def test_another_worker_that_begins_its_next_pass_changes_nothing(clips, monkeypatch):
    """The epoch of a stream of `datasets` lies in memory that all loader workers share."""
    expected = [len(e["input_values"]) for e in passes(audio_stream(clips), 200)]
    stream, kept = audio_stream(clips), StreamingBatches._kept

    def disturbed(self, rows):
        for shared in self.streams:
            shared.set_epoch(5)
        return kept(self, rows)

    monkeypatch.setattr(StreamingBatches, "_kept", disturbed)
    assert [len(e["input_values"]) for e in passes(stream, 200)] == expected


def test_long_clips_are_cropped_with_the_examples_own_numbers(clips):
    stream = audio_stream(clips)
    stream.modality.longest = 8000
    crops = {(e["epoch"], e["index"]): e["input_values"] for e in passes(stream, 200)}
    assert {len(crop) for crop in crops.values()} == {8000}
    assert len({crop.numpy().tobytes() for crop in crops.values()}) > 190


def test_filters_and_bad_files_are_counted_and_named(tmp_path, caplog):
    for i in range(5):
        soundfile.write(tmp_path / f"{i}.wav", np.random.default_rng(i).standard_normal(16000) / 10, 16000)
    soundfile.write(tmp_path / "short.wav", np.random.default_rng(9).standard_normal(4000) / 10, 16000)
    (tmp_path / "words.wav").write_text("no sound")
    strict = audio_stream(tmp_path)
    with pytest.raises(ValueError, match="words.wav.*data.max_bad_share"):
        passes(strict, 30)
    lenient = audio_stream(tmp_path, max_bad_share=1.0)
    lenient.modality.args.min_seconds = 0.5
    with caplog.at_level(logging.WARNING):
        seen = passes(lenient, 200)
    assert Counter(example["epoch"] for example in seen)[0] == 5
    assert "1 examples of the stream left out so far: shorter than min_seconds = 0.5" in caplog.text
    assert sum("words.wav" in record.getMessage() for record in caplog.records) == 1
    lenient.modality.args.min_seconds = 1.5
    with pytest.raises(ValueError, match="no usable example.*shorter than min_seconds = 1.5"):
        next(iter(lenient))


def test_text_is_packed_from_a_stream():
    documents = [f"document {i} has these words" for i in range(200)]
    tokenizer = train_tokenizer(documents, 280)
    args = TextDataArguments(sources=[{"path": "unused"}], block_size=29)
    modality = TextData(args, Data2VecTextConfig(vocab_size=280, pad_token_id=1), tokenizer)
    stream = datasets.Dataset.from_dict({"text": documents}).to_iterable_dataset(num_shards=4)
    batches = list(islice(StreamingBatches([stream], modality, seed=0, batch_size=3), 200))
    assert {len(batch) for batch in batches} == {3}
    first = [example["input_ids"] for batch in batches for example in batch if example["epoch"] == 0]
    assert all(len(row) == 29 for row in first[:-1])
    text = tokenizer.decode(torch.cat([row[1:] for row in first]))
    assert sorted(text.split("</s>")[:-1]) == sorted(documents)


def test_several_streams_are_mixed_by_their_weights(clips, tmp_path):
    for i in range(11):
        soundfile.write(tmp_path / f"{i}.wav", np.random.default_rng(i).standard_normal(4000 + i) / 10, 16000)
    sources = [{"path": str(clips), "weight": 1}, {"path": str(tmp_path), "weight": 3}]
    args = AudioDataArguments(sources=sources, streaming=True, min_seconds=0, max_seconds=2)
    data = build_data(args, config=Data2VecAudioConfig(), objective=OBJECTIVE, seed=0, batch_size=4)
    assert data.batch_sampler is None
    loader = DataLoader(data.train_dataset, **data.loader_arguments() | {"collate_fn": list})
    lengths = [len(example["input_values"]) for batch in islice(loader, 300) for example in batch]
    assert np.mean([length < 5000 for length in lengths]) == pytest.approx(0.75, abs=0.03)
    assert len({length for length in lengths if length >= 8000}) == 47
    # Every pass is a whole one, whatever the shares.
    short = [length for length in lengths if length < 5000]
    assert max(Counter(short).values()) - min(Counter(short).values()) <= 3
    batch = next(iter(DataLoader(data.train_dataset, **data.loader_arguments())))
    assert batch["masked"].shape[0] == 4 and batch["masked"].any()


def test_workers_without_a_file_of_a_source_would_change_the_shares(clips):
    few, many = (datasets.Dataset.from_dict({"audio": sorted(map(str, clips.glob("*.wav")))}) for _ in range(2))
    streams = [few.to_iterable_dataset(num_shards=1), many.to_iterable_dataset(num_shards=5)]
    args = AudioDataArguments(sources=[{"path": "unused"}], min_seconds=0)
    mixed = StreamingBatches(streams, AudioData(args, Data2VecAudioConfig()), seed=0, batch_size=2, shares=[0.5, 0.5])
    with pytest.raises(ValueError, match="data source 1 has fewer files.*workers.*2"):
        passes(DataLoader(mixed, batch_size=None, num_workers=2, collate_fn=list), 50)
    assert len(passes(DataLoader(mixed, batch_size=None, num_workers=1, collate_fn=list), 50)) == 50
