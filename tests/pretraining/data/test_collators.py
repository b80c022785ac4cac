"""Collators: padding, masks that depend on nothing but the example, special tokens, labels."""

import numpy as np
import pytest
import torch
from transformers import Data2VecAudioConfig, Data2VecAudioModel

from data2vec.modeling.configuration_objective import ObjectiveConfig
from data2vec.modeling.embed_audio import ConvFrames
from data2vec.modeling.masking import mask_seeds, masking_from_dict
from data2vec.pretraining.modalities.audio import AudioCollator
from data2vec.pretraining.modalities.image import ImageCollator
from data2vec.pretraining.modalities.text import TextCollator
from data2vec.pretraining.train_tokenizer import train_tokenizer


FRAMES = ConvFrames((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
SPANS = {"method": "span", "prob": 0.65, "length": 5}


def objective(masking: dict, views: int | None = None) -> ObjectiveConfig:
    return ObjectiveConfig.from_dict({"masking": masking, "views": views})


def clips(*lengths: int, epoch: int = 2, first_index: int = 11) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_values": torch.randn(length, generator=generator), "epoch": epoch, "index": first_index + i}
        for i, length in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    words = " ".join(f"word{i} other{i % 7}" for i in range(300))
    return train_tokenizer([words] * 3, 331)


def test_frames_are_counted_as_the_encoder_does():
    config = Data2VecAudioConfig(num_hidden_layers=1, hidden_size=16, intermediate_size=16, num_attention_heads=2)
    model = Data2VecAudioModel(config)
    samples = torch.arange(400, 4000, 37)
    expected = model._get_feat_extract_output_lengths(samples)
    assert torch.equal(FRAMES(samples), expected)
    assert [FRAMES(int(n)) for n in samples] == expected.tolist()
    for frames in (1, 2, 5, 31):
        fewest = FRAMES.samples_for(frames)
        assert FRAMES(fewest) == frames and FRAMES(fewest - 1) == frames - 1


def test_audio_is_padded_with_zeros_and_says_so_only_where_it_is():
    examples = clips(16003, 12007, 16003)
    batch = AudioCollator(objective(SPANS), FRAMES, seed=5)(examples)
    assert set(batch) == {"input_values", "attention_mask", "masked", "mask_counts"}
    assert batch["input_values"].shape == (3, 16003) and batch["input_values"].dtype == torch.float32
    assert torch.equal(batch["input_values"][1, :12007], examples[1]["input_values"])
    assert not batch["input_values"][1, 12007:].any()
    assert batch["attention_mask"].dtype == torch.int64 and batch["attention_mask"].sum(1).tolist() == [
        16003,
        12007,
        16003,
    ]
    assert batch["masked"].shape == (3, FRAMES(16003)) and batch["masked"].dtype == torch.bool
    assert not batch["masked"][1, FRAMES(12007) :].any()
    real = torch.arange(FRAMES(16003)) < torch.tensor([[FRAMES(16003)], [FRAMES(12007)], [FRAMES(16003)]])
    seen = (~batch["masked"] & real).sum(1).tolist()
    assert batch["mask_counts"] == (int(batch["masked"].sum()), min(seen), max(seen))
    assert set(AudioCollator(objective(SPANS), FRAMES, seed=5)(clips(16003, 16003))) == {
        "input_values",
        "masked",
        "mask_counts",
    }


@pytest.mark.parametrize("views", [None, 3])
def test_a_mask_follows_from_its_example_alone(views):
    collate = AudioCollator(objective(SPANS, views), FRAMES, seed=5)
    masked = collate(clips(16003, 12007, 14011))["masked"]  # (3[, views], frames)
    masking = masking_from_dict(SPANS)
    for row, samples in enumerate((16003, 12007, 14011)):
        alone = masking.sample((FRAMES(samples),), mask_seeds(5, 2, [11 + row], views or 1))[0]  # (views, frames)
        expected = alone if views else alone[0]
        assert torch.equal(masked[row][..., : FRAMES(samples)], expected)
        assert masked[row].any()
    again = AudioCollator(objective(SPANS, views), FRAMES, seed=5)(clips(16003, 12007, 14011))["masked"]
    assert torch.equal(masked, again)
    for other in (clips(16003, 12007, 14011, epoch=3), clips(16003, 12007, 14011, first_index=12)):
        assert not torch.equal(masked, collate(other)["masked"])


def test_examples_of_different_passes_in_one_batch():
    collate = AudioCollator(objective(SPANS), FRAMES, seed=5)
    mixed = clips(9001, 9001, epoch=1) + clips(9001, epoch=4, first_index=13)
    masked = collate(mixed)["masked"]
    assert torch.equal(masked[:2], collate(mixed[:2])["masked"]) and torch.equal(
        masked[2:], collate(mixed[2:])["masked"]
    )


def test_crop_to_shortest_cuts_every_clip_to_a_random_piece():
    collate = AudioCollator(objective(SPANS), FRAMES, seed=5, crop_to_shortest=True)
    starts = set()
    for epoch in range(6):
        examples = clips(4003, 2003, 3011, epoch=epoch)
        batch = collate(examples)
        assert set(batch) == {"input_values", "masked", "mask_counts"} and batch["input_values"].shape == (3, 2003)
        assert batch["masked"].shape == (3, FRAMES(2003))
        pieces = examples[0]["input_values"].unfold(0, 2003, 1)  # (starts, samples)
        (start,) = (pieces == batch["input_values"][0]).all(1).nonzero().flatten().tolist()
        starts.add(start)
        assert torch.equal(batch["input_values"], collate(examples)["input_values"])
    assert len(starts) > 3


@pytest.mark.parametrize("views", [None, 2])
def test_images_are_stacked_with_masks_of_the_patch_grid(views):
    masking = {"method": "beit_block", "ratio": 0.5, "min_patches": 3}
    examples = [{"pixel_values": torch.full((3, 10, 14), float(i)), "epoch": 0, "index": i} for i in range(3)]
    batch = ImageCollator(objective(masking, views), (5, 7), seed=1)(examples)
    assert batch["pixel_values"].shape == (3, 3, 10, 14) and batch["pixel_values"][2, 0, 0, 0] == 2
    assert batch["masked"].shape == ((3, 35) if views is None else (3, views, 35))
    expected = masking_from_dict(masking).sample((5, 7), mask_seeds(1, 0, range(3), views or 1))
    assert torch.equal(batch["masked"], expected if views else expected[:, 0])


def text(*lengths: int) -> list[dict]:
    rng = np.random.default_rng(0)
    rows = [np.concatenate([[0], rng.integers(5, 330, n - 2), [2]]) for n in lengths]
    rows[0][3] = 2  # the border of two documents
    return [{"input_ids": torch.from_numpy(row), "epoch": 1, "index": i} for i, row in enumerate(rows)]


@pytest.mark.parametrize("views", [None, 3])
def test_special_tokens_and_padding_are_never_hidden(tokenizer, views):
    masking = {"method": "token", "prob": 0.9, "length": 2}
    batch = TextCollator(objective(masking, views), tokenizer, seed=0)(text(101, 67, 101))
    assert set(batch) == {"input_ids", "attention_mask", "masked", "mask_counts"}
    assert batch["input_ids"].dtype == torch.int64 and (batch["input_ids"][1, 67:] == 1).all()
    assert batch["attention_mask"].sum(1).tolist() == [101, 67, 101]
    special = torch.isin(batch["input_ids"], torch.tensor([0, 1, 2]))
    assert special[0, 3] and special.sum() == 6 + 1 + 34
    masked = batch["masked"] if views is None else batch["masked"].any(1)
    assert not (masked & special).any()
    assert 0.5 < masked.float().mean()


def test_random_replacement_is_seen_by_the_student_only(tokenizer):
    masking = {"method": "token", "prob": 0.5, "random_prob": 0.3, "keep_prob": 0.2}
    collate = TextCollator(objective(masking), tokenizer, seed=0)
    examples = text(*[307] * 23, 101)
    batch = collate(examples)
    clean, student = batch["input_ids"], batch["student_input_ids"]
    assert torch.equal(clean[5], examples[5]["input_ids"])
    changed = clean != student
    assert not (changed & batch["masked"]).any()
    assert not torch.isin(student[changed], torch.tensor(tokenizer.all_special_ids)).any()
    assert not changed[-1, 101:].any()
    real = clean.numel() - (307 - 101)
    assert changed.sum() / real == pytest.approx(0.5 * 0.3, abs=0.02)
    assert batch["masked"].sum() / real == pytest.approx(0.5 * 0.5, abs=0.02)
    assert student[changed].unique().numel() > 200  # drawn from the whole vocabulary
    alone = collate([examples[-1]])
    assert torch.equal(alone["student_input_ids"][0], student[-1, :101])
    assert torch.equal(collate(examples)["student_input_ids"], student)


def test_random_replacement_has_no_meaning_where_hidden_tokens_are_dropped(tokenizer):
    masking = {"method": "token", "prob": 0.5, "random_prob": 0.3}
    with pytest.raises(ValueError, match="random_prob = 0.3.*views = 4"):
        TextCollator(objective(masking, views=4), tokenizer, seed=0)


def test_labelled_examples_for_a_probe_have_labels_and_no_masks():
    examples = [example | {"labels": i} for i, example in enumerate(clips(9001, 7001))]
    batch = AudioCollator(None, FRAMES, seed=0)(examples)
    assert set(batch) == {"input_values", "attention_mask", "labels"}
    assert batch["labels"].tolist() == [0, 1] and batch["labels"].dtype == torch.int64


def test_whole_words_share_one_fate(tokenizer):
    """Tokens of a word are hidden, replaced or kept together, special tokens never; the loss covers all three."""
    masking = {"method": "token", "prob": 0.4, "keep_prob": 0.25, "random_prob": 0.25}
    numbers = ObjectiveConfig.from_dict({"masking": masking, "target": "input", "decoder": {"method": "token"}})
    texts = [" ".join(f"word{i} other{i % 7}" for i in range(start, start + 30)) for start in (0, 40, 80)]
    texts[1] = texts[1][:100]  # a shorter row
    examples = [
        {"input_ids": torch.tensor(tokenizer(text)["input_ids"]), "epoch": 0, "index": i}
        for i, text in enumerate(texts)
    ]
    collate = TextCollator(numbers, tokenizer, seed=0, whole_words=True)
    batch = collate(examples)
    replaced = batch["student_input_ids"] != batch["input_ids"]
    scored, masked = batch["scored"], batch["masked"]
    assert masked.any() and replaced.any() and not (replaced & masked).any()
    assert not ((masked | replaced) & ~scored).any() and (scored & ~masked & ~replaced).any()
    assert batch["mask_counts"][0] == scored.sum()
    several = 0
    for row, example in enumerate(examples):
        tokens = tokenizer.convert_ids_to_tokens(example["input_ids"].tolist())
        inside = range(1, len(tokens) - 1)
        starts = [i for i in inside if i == 1 or tokens[i].startswith("\u0120")] + [len(tokens) - 1]
        for first, last in zip(starts[:-1], starts[1:], strict=True):
            several += last - first > 1
            for fate in (masked, scored):
                assert len(set(fate[row, first:last].tolist())) == 1
        assert not scored[row, 0] and not scored[row, len(tokens) - 1 :].any()
    assert several > 20
    alone = collate(examples[1:2])["masked"]  # a row does not depend on the others
    assert torch.equal(masked[1, : alone.shape[1]], alone[0])


def test_a_teacher_of_the_same_view_is_compared_where_the_student_reads():
    decoder = {"dim": 16, "layers": 1, "kernel": 3}
    values = {"masking": {"method": "random", "prob": 0.5}, "target": "same_view", "decoder": decoder, "views": 2}
    examples = clips(16003, 12007)
    batch = AudioCollator(ObjectiveConfig.from_dict(values), FRAMES, seed=5)(examples)
    real = torch.arange(FRAMES(16003)) < torch.tensor([[FRAMES(16003)], [FRAMES(12007)]])
    assert torch.equal(batch["scored"], ~batch["masked"] & real.unsqueeze(1))
    assert batch["mask_counts"][0] == batch["scored"].sum()
