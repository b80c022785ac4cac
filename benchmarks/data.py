"""What the loaders deliver on one core, and from which step rate on training waits for them.

    python benchmarks/data.py                                          # made-up clips, photographs and documents
    python benchmarks/data.py --audio my_clips --images my_photos --text my_documents.txt --workers 1 4
    python benchmarks/data.py --modality audio --files 1000000         # only how long a start takes with so many files

For each modality, with the published data2vec 2.0 base recipe: examples per second and core (read, decoded, cropped,
augmented, normalised), masks per second, what is padded, batches per second of a loader with so many workers, and the
share of a step that training would wait at some step rates. The step is slept, as if a GPU computed it.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
import torch
from PIL import Image, JpegImagePlugin
from systems import SYSTEMS, put, read_recipe_of
from transformers.utils.logging import disable_progress_bar

from data2vec.pretraining.arguments import Run, resolve
from data2vec.pretraining.data.loader import make_loader
from data2vec.pretraining.data.sampler import BatchSampler
from data2vec.pretraining.modalities.build import PretrainingData, build_data


UNITS = {"audio": "clips", "vision": "images", "text": "rows"}


# ---- made-up sources ----


def make_clips(folder: Path, count: int, seconds: float = 15.0) -> str:
    """FLAC files of 16 kHz whose lengths spread about `seconds`; coloured noise, which compresses like speech."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    for number in range(count):
        wave = np.convolve(rng.standard_normal(int(rng.uniform(0.3, 1.3) * seconds * 16_000)), np.ones(8) / 40)
        soundfile.write(folder / f"{number}.flac", wave, 16_000)
    return str(folder)


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> str:
    """JPEG files of quality 90, as large as photographs of that (width, height) are: smooth, with noise."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        noisy = np.asarray(small) + rng.normal(0, 6, (size[1], size[0], 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return str(folder)


def make_tree(folder: Path, originals: str, count: int) -> str:
    """So many files in folders of a thousand: links to the originals, which need no room."""
    files = sorted(Path(originals).iterdir())
    for number in range(count):
        if number % 1000 == 0:
            below = folder / f"{number // 1000:04d}"
            below.mkdir(parents=True)
        original = files[number % len(files)]
        os.link(original, below / f"{number:07d}{original.suffix}")
    return str(folder)


def make_documents(path: Path, count: int) -> str:
    """A text file of documents of 200 made-up words, a line each."""
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("abcdefghijklmnoprstu"), rng.integers(2, 9))) for _ in range(2000)]
    common = 1 / np.arange(1, len(words) + 1)
    lines = (" ".join(rng.choice(words, 200, p=common / common.sum())) for _ in range(count))
    path.write_text("\n".join(lines))
    return str(path)


# ---- what is measured ----


def open_data(modality: str, source: str, tiny: bool, **more: Any) -> tuple[Run, PretrainingData]:
    """As `run.py` opens it; text has a tokenizer trained on the source."""
    recipe = read_recipe_of(SYSTEMS[f"{modality}_v2"].recipe)
    fields: dict[str, Any] = {"training.output_dir": "unused", "training.use_cpu": not torch.cuda.is_available()}
    fields |= {"training.bf16": False, "data.sources": [{"path": source}]}
    if modality == "audio":
        fields |= {"data.batch_seconds": 62.5}
    if modality == "text":
        fields |= {"data.tokenizer": "builtin:byte-bpe", "model.vocab_size": 1000, "training.seed": 1}
    if tiny:
        fields |= {"training.per_device_train_batch_size": 2}
    put(recipe, fields | more)
    run = resolve(recipe)
    size = run.training.per_device_train_batch_size
    data = build_data(run.data, config=run.config, objective=run.objective, seed=1, batch_size=size)
    return run, data


def per_second(work: Callable[[int], int], seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """What `work(1)`, `work(2)`, ... say they have done, per second of this process: other programs do not count."""
    work(0)
    done, calls, began = 0, 1, clock()
    while clock() - began < seconds:
        done += work(calls)
        calls += 1
    return done / (clock() - began)


def reads(data: PretrainingData, seconds: float) -> float:
    """Examples a second, one after the other in this process."""
    dataset: Any = data.train_dataset

    def one(call: int) -> int:
        dataset[(call // len(dataset), call % len(dataset))]
        return 1

    return per_second(one, seconds)


def streamed(data: PretrainingData, seconds: float) -> float:
    """Examples a second of a stream of lists of examples, begun again when it ends."""
    state: dict[str, Iterator[Any]] = {}

    def one(call: int) -> int:
        batch = next(state.get("stream", iter(())), None)
        if batch is None:
            state["stream"] = iter(data.train_dataset)  # type: ignore[arg-type]
            batch = next(state["stream"])
        return len(batch)

    return per_second(one, seconds)


def masks(run: Run, example: dict[str, Any], data: PretrainingData, seconds: float) -> float:
    """Masks a second of a batch of 16 samples, on the grid of an example."""
    views = run.objective.views or 1
    collator: Any = data.collator
    _, layout = collator.inputs([example])

    def one(call: int) -> int:
        seeds = torch.arange(16 * views).view(16, views) + 1000 * call
        return run.objective.draw_masks(layout.grid, seeds, layout.lengths).shape[:2].numel()

    return per_second(one, seconds)


def padding(sampler: BatchSampler, lengths: np.ndarray) -> float:
    """Share of an epoch's batches that is padding."""
    real = held = 0
    for batch in sampler:
        rows = lengths[[index for _, index in batch]]
        real, held = real + int(rows.sum()), held + len(rows) * int(rows.max())
    return 1 - real / held


class Batches:
    """Batches of a loader, epoch after epoch."""

    def __init__(self, run: Run, data: PretrainingData, workers: int):
        run.training.dataloader_num_workers = workers
        run.training.dataloader_prefetch_factor = 2 if workers else None
        run.training.dataloader_persistent_workers = workers > 0
        self.data, self.epoch = data, 0
        self.loader = make_loader(data.train_dataset, run.training, **data.loader_arguments())
        self.iterator: Iterator[Any] = iter(self.loader)

    def next(self) -> Any:
        batch = next(self.iterator, None)
        if batch is None:
            self.epoch += 1
            assert self.data.batch_sampler is not None
            self.data.batch_sampler.set_epoch(self.epoch)
            self.iterator = iter(self.loader)
            batch = next(self.iterator)
        return batch

    def per_second(self, seconds: float) -> float:
        return per_second(lambda _: bool(self.next() is not None), seconds, time.perf_counter)

    def waiting(self, step: float, seconds: float) -> float:
        """Share of the time spent waiting for a batch where a step takes `step` seconds."""
        self.next()
        waited, began = 0.0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            time.sleep(step)
            asked = time.perf_counter()
            self.next()
            waited += time.perf_counter() - asked
        return waited / (time.perf_counter() - began)


def whole_decoding() -> Callable[[], None]:
    """JPEGs are decoded at full size until the returned function is called."""
    reduced = JpegImagePlugin.JpegImageFile.draft
    JpegImagePlugin.JpegImageFile.draft = lambda self, mode, size: None  # type: ignore[method-assign]

    def undo() -> None:
        JpegImagePlugin.JpegImageFile.draft = reduced  # type: ignore[method-assign]

    return undo


# ---- the report ----


def report(modality: str, title: str, source: str, args: argparse.Namespace) -> None:
    began = time.perf_counter()
    run, data = open_data(modality, source, args.tiny)
    opening = time.perf_counter() - began
    dataset: Any = data.train_dataset
    unit, seconds = UNITS[modality], args.seconds
    print(f"\n## {title}\n\n{len(dataset)} {unit}, opened in {opening:.1f} s\n\n| what | measured |\n| --- | --- |")
    rate = reads(data, seconds)
    print(f"| {unit} per second and core | {rate:.0f} |")
    if modality == "audio":
        print(f"| times real time | {rate * np.mean(dataset.lengths) / 16_000:.0f} |")
    if modality == "vision":
        undo = whole_decoding()
        print(f"| the same, every JPEG decoded whole | {reads(data, seconds):.0f} |")
        undo()
    _, stream = open_data(modality, source, args.tiny, **{"data.streaming": True})
    print(f"| streamed, {unit} per second and core | {streamed(stream, seconds):.0f} |")
    print(f"| masks per second and core | {masks(run, dataset[(0, 0)], data, seconds):.0f} |")
    sampler: Any = data.batch_sampler
    if dataset.lengths is not None:
        print(f"| padding with length bucketing | {padding(sampler, dataset.lengths):.1%} |")
        cost = {"batch_cost": sampler.cost, "batch_size": sampler.rows}
        one_bucket = BatchSampler(dataset.lengths, len(dataset), seed=1, bucket_width=1e6, **cost)
        print(f"| padding in one bucket | {padding(one_bucket, dataset.lengths):.1%} |")
    for workers in args.workers:
        batches = Batches(run, data, workers)
        rate = batches.per_second(seconds)
        waits = [f"{step:.2g}/s: {batches.waiting(1 / step, seconds):.0%}" for step in steps_around(rate)]
        print(f"| {workers} workers: batches per second; waiting at steps/s | {rate:.2f}; {', '.join(waits)} |")
    sys.stdout.flush()


def report_start(modality: str, folder: Path, count: int, tiny: bool) -> None:
    """Processor seconds from a recipe to its first batch, twice: the second start finds what the first one kept."""
    originals = 50 + count // 50_000  # a file system allows some 65,000 links to a file
    if modality == "audio":
        source = make_tree(folder / "tree", make_clips(folder / "few", originals, 4.0), count)
    else:
        source = make_tree(folder / "tree", make_photos(folder / "few", originals, (256, 256)), count)
    for start in ("first", "second"):
        began = time.process_time()
        run, data = open_data(modality, source, tiny)
        opened = time.process_time() - began
        Batches(run, data, workers=0).next()
        took, peak = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"| {count:,} {UNITS[modality]}, {start} start | {opened:.1f} s | {took:.1f} s | {peak:.0f} MB |",
            flush=True,
        )


def steps_around(rate: float) -> Sequence[float]:
    """Step rates from half to twice what a loader delivers."""
    return [rate * factor for factor in (0.5, 0.8, 1.2, 2.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", nargs="+", choices=list(UNITS), default=list(UNITS))
    for name in ("audio", "images", "text"):
        parser.add_argument(f"--{name}", help="a source as in a recipe (default: made up)")
    parser.add_argument("--workers", nargs="*", type=int, default=[1])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument(
        "--files", type=int, help="of speech and images: only time the start with so many made-up files"
    )
    parser.add_argument("--tiny", action="store_true", help="few made-up examples, for tests")
    args = parser.parse_args()
    disable_progress_bar()
    datasets.disable_progress_bars()
    count = 4 if args.tiny else 64
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"  # text is tokenised again every time
        if args.files:
            print("| files | opened, processor | with the first batch | peak memory |\n| --- | --- | --- | --- |")
            for modality in ("audio", "vision"):
                if modality in args.modality:
                    report_start(modality, folder / modality, args.files, args.tiny)
            return
        if "audio" in args.modality:
            source = args.audio or make_clips(folder / "clips", count)
            report("audio", f"Speech: {args.audio or 'made-up clips of about 12 s'}", source, args)
        if "vision" in args.modality:
            for size in [None] if args.images else [(500, 375), (1000, 750)]:
                source = args.images or make_photos(folder / str(size), count, size)
                report("vision", f"Images: {args.images or f'made-up JPEGs, {size[0]} x {size[1]}'}", source, args)
        if "text" in args.modality:
            source = args.text or make_documents(folder / "documents.txt", 50 * count)
            report("text", f"Text: {args.text or 'made-up documents of 200 words'}", source, args)


if __name__ == "__main__":
    main()
