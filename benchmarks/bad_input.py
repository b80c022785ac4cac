"""1,000 damaged files among good ones, read through a whole run: what is found, under which name, and what it costs.

    python benchmarks/bad_input.py [--damaged 1000] [--good 1000]

Prints, for each modality and for map-style and streaming data, how many damaged files were counted under the right
kind and named, how many good ones were used, and how fast the files were read beside a folder of good ones alone.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import transformers
from torch.utils.data import DataLoader

from data2vec.modeling import ObjectiveConfig
from data2vec.pretraining.data import text_files as data_text_files
from data2vec.pretraining.modalities.build import build_data, modality_of
from data2vec.tests.pretraining.damaged_files import KINDS, by_problem, write_files


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CASES = {
    "audio": (
        transformers.Data2VecAudioConfig(**TINY, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2),
        {"min_seconds": 0.0, "max_seconds": 2.0},
        {"method": "span", "prob": 0.5, "length": 3},
    ),
    "image": (
        transformers.Data2VecVisionConfig(**TINY, image_size=16, patch_size=4),
        {},
        {"method": "beit_block", "ratio": 0.5, "min_patches": 2},
    ),
    "text": (
        transformers.Data2VecTextConfig(**TINY, vocab_size=300, pad_token_id=1, max_position_embeddings=64),
        {"tokenizer": "builtin:byte-bpe", "block_size": 31, "sample_by": "document"},
        {"method": "token", "prob": 0.3},
    ),
}


def read(modality: str, folder: Path, streaming: bool, record: Path):
    """(what was left out, examples of the first pass, seconds)."""
    config, fields, masking = CASES[modality]
    args = modality_of(config).arguments_class.from_dict(
        {"sources": [{"path": str(folder)}], "max_bad_share": 1.0, "streaming": streaming} | fields
    )
    start = time.perf_counter()
    data = build_data(
        args, config=config, objective=ObjectiveConfig.from_dict({"masking": masking}), seed=0, batch_size=8
    )
    data.record_skipped(record, 0)
    loader = DataLoader(
        data.train_dataset, **data.loader_arguments() | {"collate_fn": names}, num_workers=2, prefetch_factor=1
    )
    examples, later = [], 0
    for batch in loader:
        later = later + 1 if all(epoch > 0 for _, epoch in batch) else 0
        examples += [name for name, epoch in batch if epoch == 0]
        if later == 4:
            break
    return data.skipped()["train"], examples, time.perf_counter() - start


def names(examples: list[dict]) -> list[tuple[str, int]]:
    return [(example["name"], example["epoch"]) for example in examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damaged", type=int, default=1000)
    parser.add_argument("--good", type=int, default=1000)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    data_text_files.LARGEST = 50_000  # so that an enormous line needs no 16 MiB here
    print("modality | data | damaged | kinds of damage | right kind | named | good used | s | s, good alone")
    for modality, kinds in KINDS.items():
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            problems = write_files(root / "files", kinds, arguments.damaged, arguments.good)
            write_files(root / "good", kinds, 0, arguments.good)
            damaged = {name: problem for name, problem in problems.items() if problem is not None}
            for streaming in (False, True):
                counts, used, seconds = read(modality, root / "files", streaming, root / f"run{streaming}")
                *_, alone = read(modality, root / "good", streaming, root / f"alone{streaming}")
                lines = (root / f"run{streaming}" / "skipped.jsonl").read_text().splitlines()
                found = [json.loads(line) for line in lines]
                expected = dict(by_problem(problems))
                right = sum(min(number, expected.get(problem, 0)) for problem, number in counts.items())
                named = sum(
                    any(name in line["name"] + line["detail"] and line["problem"] == problem for line in found)
                    for name, problem in damaged.items()
                )
                good = len(set(used) & set(problems) - set(damaged)) if modality != "text" else "-"
                kind_count = len({kind.name + kind.ending for kind in kinds if kind.problem})
                mode = "stream" if streaming else "map-style"
                row = (modality, mode, len(damaged), kind_count, right, named, good, f"{seconds:.1f}", f"{alone:.1f}")
                print(" | ".join(map(str, row)), flush=True)


if __name__ == "__main__":
    main()
