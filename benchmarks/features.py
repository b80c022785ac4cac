"""How long features of a frozen encoder take: `data2vec.embed` against a plain loop and plain batches.

    python benchmarks/features.py --modality audio --examples 32

A data2vec 1 of base size with random weights reads clips of 2 to 15 s, or texts of 4 to 128 words. The loop takes one
example at a time and pads nothing; the batches are of 16 examples in the order of the data, padded to the longest of
each, as a `transformers` pipeline makes them (for text it is that pipeline). All take their turns in one process, on
one thread: processor time, medians of the rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Data2VecTextConfig,
    Data2VecTextModel,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

import data2vec


RATE, BATCH = 16_000, 16
TINY: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
}  # fmt: skip
WORDS = [f"word{number}" for number in range(500)]


def clips(folder: Path, count: int, tiny: bool) -> Path:
    """Noise of 2 to 15 s, 7.4 on average; tiny: a tenth of that."""
    rng = np.random.default_rng(0)
    for number, seconds in enumerate(rng.choice([2, 3, 4, 5, 7, 10, 13, 15], count)):
        noise = rng.normal(0, 0.1, int(seconds * RATE / (10 if tiny else 1)))
        soundfile.write(folder / f"{number:04d}.wav", noise, RATE)
    return folder


def texts(folder: Path, count: int, tiny: bool) -> Path:
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(WORDS, rng.integers(4, 13 if tiny else 129))) for _ in range(count)]
    datasets.Dataset.from_dict({"text": rows}).to_parquet(folder / "texts.parquet")
    return folder / "texts.parquet"


def audio_encoder(folder: Path, tiny: bool) -> Path:
    small = {**TINY, "conv_dim": (8,) * 7, "num_conv_pos_embedding_groups": 2} if tiny else {}
    Data2VecAudioModel(Data2VecAudioConfig(**small)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True).save_pretrained(folder)
    return folder


def text_encoder(folder: Path, tiny: bool) -> Path:
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *WORDS])}
    config = Data2VecTextConfig(
        vocab_size=len(vocabulary), max_position_embeddings=140, type_vocab_size=1, **(TINY if tiny else {})
    )
    Data2VecTextModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        mask_token="<mask>", cls_token="<s>", sep_token="</s>", model_max_length=138,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def plain_audio(encoder: Path, data: Path, batch_size: int) -> Iterator[np.ndarray]:
    """The mean over each clip's frames, by stock classes."""
    model, extractor = AutoModel.from_pretrained(encoder).eval(), Wav2Vec2FeatureExtractor.from_pretrained(encoder)
    waves = [soundfile.read(path, dtype="float32")[0] for path in sorted(data.iterdir())]
    for start in range(0, len(waves), batch_size):
        batch = waves[start : start + batch_size]
        inputs = extractor(batch, sampling_rate=RATE, padding=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        lengths = model._get_feat_extract_output_lengths(torch.tensor([len(wave) for wave in batch]))
        yield from (row[:length].mean(0).numpy() for row, length in zip(states, lengths, strict=True))


def plain_text(encoder: Path, data: Path, batch_size: int) -> Iterator[np.ndarray]:
    """The mean over each text's tokens, by the pipeline."""
    features = pipeline("feature-extraction", model=str(encoder), device="cpu")
    rows = datasets.Dataset.from_parquet(str(data))["text"][:]
    lengths = [len(tokens) for tokens in features.tokenizer(rows)["input_ids"]]
    for length, states in zip(lengths, features(rows, batch_size=batch_size, return_tensors=True), strict=True):
        yield states[0, :length].mean(0).numpy()


PARTS: dict[str, tuple[Any, ...]] = {
    "audio": (audio_encoder, clips, plain_audio),
    "text": (text_encoder, texts, plain_text),
}


def measure(modality: str, examples: int, rounds: int, tiny: bool) -> dict[str, float]:
    """Median processor seconds of each way."""
    make_encoder, make_data, plain = PARTS[modality]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "data").mkdir()
        encoder, data = make_encoder(folder / "encoder", tiny), make_data(folder / "data", examples, tiny)
        ways: dict[str, Callable[[], Any]] = {
            "loop": lambda: list(plain(encoder, data, 1)),
            "batches": lambda: list(plain(encoder, data, BATCH)),
            "data2vec.embed": lambda: data2vec.embed(
                encoder, data, output=folder / "features.parquet", batch_size=BATCH, use_cpu=True
            ),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.process_time()
                way()
                found[name].append(time.process_time() - began)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=["base", "tiny"], default="base")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| modality | way | s | times as fast as the loop |\n| --- | --- | --: | --: |")
    for modality in given.modality:
        found = measure(modality, given.examples, given.rounds, given.size == "tiny")
        for name, seconds in found.items():
            print(f"| {modality} | {name} | {seconds:.1f} | {found['loop'] / seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
