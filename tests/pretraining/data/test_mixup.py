"""Intra-modal mixup: which example is blended with which, and how, follows from the seed alone."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data2vec.pretraining.data.mixup import blended, mix_tokens, mix_values
from data2vec.pretraining.modalities.image import ImageCollator
from data2vec.tests.reference import cases, folder_of


def examples(*lengths: int) -> list[dict]:
    return [
        {"input_values": torch.full((n,), float(i + 1)), "input_ids": torch.full((n,), i), "epoch": 0, "index": i}
        for i, n in enumerate(lengths)
    ]


def test_numbers_are_blended_and_ids_taken_from_one_of_the_two():
    given = examples(13, 7, 11, 13)
    mixed = blended(given, np.random.default_rng(3))
    order = np.random.default_rng(3).permutation(4)
    assert any(order != np.arange(4))
    for number, (example, other) in enumerate(zip(mixed, order, strict=True)):
        values, ids = example["input_values"], example["input_ids"]
        common = min(len(values), len(given[other]["input_values"]))
        assert len(values) == len(given[number]["input_values"]) and example["index"] == number
        low, high = sorted((number + 1.0, other + 1.0))
        assert len(set(values[:common].tolist())) == 1 and low <= values[0] <= high
        assert (values[common:] == number + 1).all() and (ids[common:] == number).all()
        assert set(ids.tolist()) <= {number, int(other)}
    assert all(torch.equal(a["input_ids"], torch.full_like(a["input_ids"], i)) for i, a in enumerate(given))


def test_a_batch_is_blended_alike_whenever_it_is_made():
    collate = ImageCollator(None, (2, 2), seed=5)
    rows = [{"pixel_values": torch.randn(1, 4, 4), "epoch": 1, "index": i} for i in range(3)]
    plain = collate(rows)["pixel_values"]
    collate.mixup = True
    assert torch.equal(collate(rows)["pixel_values"], collate(rows)["pixel_values"])
    assert not torch.equal(collate(rows)["pixel_values"], plain)


@pytest.mark.skipif(not cases("medcoss_?"), reason="the reference cases of MedCoSS are not here")
def test_blends_are_the_originals():
    io = load_file(folder_of("medcoss_a") / "io.safetensors")
    for kind in ("distill2d", "distill3d"):
        values, order = io[f"{kind}.in.data"], io[f"{kind}.in.perm"]
        mixed = mix_values(values, values[order], io[f"{kind}.in.lambda"])
        assert torch.equal(mixed, io[f"{kind}.student.mixed_data"])
    order, draws, ratio = (io[f"distill_text.in.{name}"] for name in ("perm", "mix_uniform", "mix_ratio"))
    for given, expected in (("in.data", "student.mixed_data"), ("in.mask_attention", "student.attention")):
        ids = io[f"distill_text.{given}"]
        assert torch.equal(mix_tokens(ids, ids[order], draws, ratio), io[f"distill_text.{expected}"])
