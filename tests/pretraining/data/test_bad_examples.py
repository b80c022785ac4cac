"""Hundreds of damaged files among good ones: each is counted under its kind and named, each good one is used."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from traceback import clear_frames

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data2vec.modeling import ObjectiveConfig
from data2vec.pretraining.data import bad_examples
from data2vec.pretraining.data import text_files as data_text_files
from data2vec.pretraining.data.bad_examples import BadExample, Ledger, TooManyBad
from data2vec.pretraining.data.text_files import rows_of_files
from data2vec.pretraining.modalities.build import build_data, modality_of
from data2vec.pretraining.modalities.image import open_image
from data2vec.pretraining.modalities.sound_files import read_crop
from data2vec.tests.pretraining.damaged_files import KINDS, by_problem, words, write_files
from data2vec.tests.pretraining.modalities.test_build import AUDIO, TEXT, VISION


DAMAGED, GOOD = 307, 53
CASES = {
    "audio": (AUDIO, {"min_seconds": 0.0, "max_seconds": 2.0}, {"method": "span", "prob": 0.5, "length": 3}),
    "image": (VISION, {}, {"method": "beit_block", "ratio": 0.5, "min_patches": 2}),
    "text": (
        TEXT,
        {"tokenizer": "builtin:byte-bpe", "block_size": 31, "sample_by": "document"},
        {"method": "token", "prob": 0.3},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def damaged(request, tmp_path_factory):
    """(modality, folder, file -> problem)"""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, write_files(folder, KINDS[request.param], DAMAGED, GOOD)


def build(modality: str, folder: Path, **fields):
    config, how, masking = CASES[modality]
    values = {"sources": [{"path": str(folder)}], "max_bad_share": 1.0} | how | fields
    args = modality_of(config).arguments_class.from_dict(values)
    objective = ObjectiveConfig.from_dict({"masking": masking})
    return build_data(args, config=config, objective=objective, seed=5, batch_size=4)


def as_lists(examples: list[dict]) -> list[dict]:
    """Without tensors but tokens, which are slow to hand over."""
    kept = ("epoch", "index", "name")
    return [{n: e[n] for n in kept} | {"input_ids": e.get("input_ids", torch.empty(0)).tolist()} for e in examples]


DAMAGED_IN_PART = {"nan", "inf", "header-says-more"}


def promptly(loader: DataLoader) -> Iterator:
    """Its batches. An error frees it at once: workers of a loader that is garbage in a cycle end after 5 s each."""
    try:
        yield from loader
    except BadExample as error:
        clear_frames(error.__traceback__)
        raise


def epoch_of(data) -> list[dict]:
    """The examples of the first pass, read by two workers."""
    loader = DataLoader(data.train_dataset, **data.loader_arguments() | {"collate_fn": as_lists}, num_workers=2)
    examples, later = [], 0
    for batch in promptly(loader):
        later = later + 1 if all(example["epoch"] > 0 for example in batch) else 0
        examples += [example for example in batch if example["epoch"] == 0]
        if later == 4:  # a stream has no end
            break
    return examples


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("streaming", [False, True])
def test_every_damaged_file_is_counted_and_named_and_every_good_one_used(
    damaged, streaming, tmp_path, monkeypatch, caplog
):
    modality, folder, problems = damaged
    monkeypatch.setattr(data_text_files, "LARGEST", 50_000)
    data = build(modality, folder, streaming=streaming)
    data.record_skipped(tmp_path, 0)
    with caplog.at_level(logging.ERROR):
        examples = epoch_of(data)
    assert len({problem for problem in problems.values() if problem}) >= 6
    assert len({Path(name).name.split("-", 1)[1] for name, problem in problems.items() if problem}) >= 12
    assert data.skipped()["train"] == dict(by_problem(problems))
    lines = listed(tmp_path)
    assert len(lines) == DAMAGED and all(line["part"] == "train" for line in lines)
    for name, problem in problems.items():
        if problem is not None:
            (line,) = [line for line in lines if name in line["name"] + line["detail"]]
            assert line["problem"] == problem, line
    if modality == "text":
        ids = [token for example in examples for token in example["input_ids"]]
        assert ids.count(data.processor.sep_token_id) in (GOOD, GOOD - 1)  # a lone last one is no row
    else:
        used = {example["name"] for example in examples}
        assert used >= {name for name, bad in problems.items() if bad is None}
        # A damaged clip's sound part may stand in for a shorter neighbour: what is read is what is judged.
        extra = {Path(name).stem.split("-", 1)[1] for name in used if problems[name]}
        assert extra <= DAMAGED_IN_PART, extra


def test_a_share_above_the_limit_stops_the_run_with_counts_and_names(damaged, monkeypatch):
    modality, folder, _ = damaged
    monkeypatch.setattr(data_text_files, "LARGEST", 50_000)
    with pytest.raises(TooManyBad, match=r"data\.max_bad_share = 0\.1 allows: .*\d+ wrong type.*\d{5}-|document \d+"):
        epoch_of(build(modality, folder, max_bad_share=0.1))
    with pytest.raises(BadExample, match=r"data\.max_bad_share"):
        epoch_of(build(modality, folder, max_bad_share=0.0))


def test_what_an_earlier_start_named_is_neither_counted_nor_listed_again(tmp_path):
    folder = tmp_path / "files"
    problems = write_files(folder, KINDS["image"], 19, 40)
    for _ in range(2):
        data = build("image", folder)
        data.record_skipped(tmp_path / "run", 0)
        examples = epoch_of(data)
        assert data.skipped()["train"] == dict(by_problem(problems))
        assert len(listed(tmp_path / "run")) == 19
    (tmp_path / "run" / "skipped.jsonl").write_bytes(b'{"part": "train", "na')  # a crash in the midst of a line
    data = build("image", folder)
    data.record_skipped(tmp_path / "run", 0)
    again = epoch_of(data)
    assert [(e["index"], e["name"]) for e in again] == [(e["index"], e["name"]) for e in examples]


def test_what_is_no_file_is_left_out_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    os.symlink(tmp_path / "pipe.wav", tmp_path / "link.wav")
    os.symlink("loop.wav", tmp_path / "loop.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe.wav", "link.wav", "loop.wav", "folder.wav", "/dev/zero"):
        path = str(tmp_path / name)
        for read in (lambda path: read_crop(path, path, 99, None), lambda path: open_image(path, path)):
            with pytest.raises(BadExample, match=f"{name} cannot be opened") as error:
                read(path)
            assert error.value.problem == "missing"
        (row,) = rows_of_files([path], "line")
        assert row["_problem"] in ("missing", "damaged") and name in row["_where"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_of_bad_files_alone_ends_in_one_line(tmp_path, workers):
    for number in range(30):
        (tmp_path / f"{number}.png").write_text("not a picture at all")
    data = build("image", tmp_path)
    loader = DataLoader(data.train_dataset, **data.loader_arguments(), num_workers=workers)
    with pytest.raises(TooManyBad, match=r"^None of 30 neighbouring files can be used.*source\.$"):
        list(promptly(loader))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("sample_by", ["line", "paragraph", "document"])
def test_millions_of_empty_lines_are_one_empty_document(tmp_path, ending, sample_by):
    (tmp_path / "a.txt").write_bytes(f"one{ending}{ending * 3_000_000}two".encode())
    rows = list(rows_of_files([str(tmp_path / "a.txt")], sample_by))
    whole = [f"one\n{3_000_000 * chr(10)}two"]
    assert [row["text"] for row in rows] == {"line": ["one", "", "two"], "document": whole}.get(
        sample_by, ["one", "two"]
    )
    (tmp_path / "b.txt").write_bytes(ending.encode() * 3_000_000 + b"\xff")
    *_, bad = rows_of_files([str(tmp_path / "b.txt")], "line")
    assert f"line 3000001, byte {3_000_000 * len(ending)}" in bad["_where"]


def test_values_of_a_table_that_are_no_text_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": words(rng).decode() if i % 50 else ["a", "list"]}) for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for streaming in (False, True):
        data = build("text", tmp_path / "a.jsonl", streaming=streaming)
        epoch_of(data)
        assert data.skipped()["train"] == {"wrong type": 8}


def test_ranks_tell_each_other_and_count_each_file_once(tmp_path):
    ledgers = [Ledger("train", 1.0, size=100) for _ in range(3)]
    for rank, found in enumerate([(5, 7), (7, 11), (11, 5, 60)]):
        ledgers[rank].open(tmp_path, rank)
        for index in found:
            ledgers[rank].leave_out(f"{index}.wav", BadExample("x", "silent" if index < 50 else "empty"), index)
    told: list = []
    for _ in range(2):
        told.clear()
        for rank, ledger in enumerate(ledgers):
            ledger.exchange(lambda mine: told.extend(mine) or [], rank)
        for rank, ledger in enumerate(ledgers):
            ledger.exchange(lambda mine: told, rank)
        assert [ledger.counts() for ledger in ledgers] == [{"silent": 3, "empty": 1}] * 3
    names = Counter(path.name for path in tmp_path.iterdir())
    assert names == {"skipped.jsonl": 1, "skipped-rank1.jsonl": 1, "skipped-rank2.jsonl": 1}
    resumed = Ledger("train", 1.0, size=100)
    resumed.open(tmp_path, 0)
    assert resumed.counts() == {"silent": 3, "empty": 1}


def test_the_list_is_bounded_and_the_counts_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(bad_examples, "LISTED_BYTES", 2000)
    ledger = Ledger("train", 1.0)
    ledger.open(tmp_path)
    for number in range(500):
        ledger.leave_out(f"{number}.wav", BadExample("is silent", "silent"))
    assert ledger.counts() == {"silent": 500}
    assert (tmp_path / "skipped.jsonl").stat().st_size < 2200


@pytest.mark.parametrize(
    ("size", "bad", "stops"),
    [(31, 1, False), (31, 10, False), (31, 11, True), (12, 6, False), (12, 7, True), (1, 1, True)],
)
def test_a_few_bad_files_do_not_stop_a_small_folder(size, bad, stops):
    error = BadExample("x", "empty")
    early, late = Ledger("train", 0.01, size), Ledger("train", 0.01, size)
    for ledger, leave_out in (
        (early, lambda: early.leave_out_before({str(number): error for number in range(bad)}, size)),
        (late, lambda: [late.leave_out(str(number), error, number) for number in range(bad)]),
    ):
        with pytest.raises(TooManyBad) if stops else nullcontext():
            leave_out()
        assert ledger.counts()["empty"] == bad


@pytest.mark.parametrize(("share", "bad_every", "stops_at"), [(0.01, 50, 550), (0.01, 200, None), (0.2, 4, 804)])
def test_the_share_is_judged_over_enough_files(share, bad_every, stops_at):
    ledger = Ledger("train", share, size=5000)
    read = None
    try:
        for read in range(1, 5001):
            if read % bad_every == 0:
                ledger.leave_out(str(read), BadExample("x", "empty"), read - 1)
            else:
                ledger.used(read - 1)
    except TooManyBad:
        assert read == stops_at
    else:
        assert stops_at is None
