"""Classify sound as it comes in, on one core: `python listen.py EXPORT_FOLDER RECORDING.wav [--model FILE]`.

EXPORT_FOLDER is what `data2vec export RUN_FOLDER EXPORT_FOLDER --format onnx` wrote of a classifier of waveforms. The
recording is read a quarter of a second at a time, as a microphone delivers it, and each time the last second, or what
has come so far, is classified. Needs numpy, onnxruntime and soundfile only.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile


WINDOW, HOP = 1.0, 0.25  # seconds


@dataclass(frozen=True)
class Heard:
    """A window: when it ended, what was heard, and how long that took, in seconds."""

    end: float
    label: str
    confidence: float
    took: float


class Classifier:
    """An exported model on one thread, with the preprocessing that its folder describes.

    Raises:
        ValueError: the folder holds something else than a classifier of waveforms.
    """

    def __init__(self, folder: Path, model: str = "model.onnx"):
        config, extractor = (
            json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json")
        )
        name = config["architectures"][0]
        if not name.endswith("ForSequenceClassification") or "num_mel_bins" in extractor or "id2label" not in config:
            raise ValueError(f"{folder} holds {name}: must be a classifier of waveforms, with names of its classes.")
        self.labels = {int(number): label for number, label in config["id2label"].items()}
        self.rate, self.normalised = extractor["sampling_rate"], extractor["do_normalize"]
        self.several = config.get("problem_type") == "multi_label_classification"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(folder / model), options, providers=["CPUExecutionProvider"])

    def __call__(self, samples: np.ndarray) -> tuple[str, float]:
        """The label of the most likely class of a clip `(samples,)`, and its probability."""
        if self.normalised:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        inputs = {"input_values": samples[None], "attention_mask": np.ones((1, len(samples)), np.int64)}
        logits = self.session.run(None, inputs)[0][0]  # (classes,)
        likely = np.exp(logits - np.logaddexp(0, logits) if self.several else logits - np.logaddexp.reduce(logits))
        best = int(likely.argmax())
        return self.labels[best], float(likely[best])


def chunks(recording: Path, rate: int) -> Iterator[np.ndarray]:
    """What a microphone would deliver, `HOP` seconds at a time, as mono.

    Raises:
        ValueError: the recording has another sampling rate.
    """
    with soundfile.SoundFile(recording) as file:
        if file.samplerate != rate:
            raise ValueError(f"{recording} has {file.samplerate} samples a second: must have {rate}. Convert it.")
        size = round(HOP * rate)
        if len(file) < size:
            raise ValueError(f"{recording} has {len(file)} samples: must have {size} or more.")
        for block in file.blocks(blocksize=size, dtype="float32", always_2d=True):
            if len(block) == size:  # a microphone delivers no less
                yield block.mean(1)


def listen(classifier: Classifier, incoming: Iterator[np.ndarray]) -> Iterator[Heard]:
    """Classify the last second whenever a chunk has come in."""
    window = np.zeros(0, np.float32)
    for number, chunk in enumerate(incoming, start=1):
        window = np.concatenate([window, chunk])[-round(WINDOW * classifier.rate) :]
        began = time.perf_counter()
        label, confidence = classifier(window)
        yield Heard(number * HOP, label, confidence, time.perf_counter() - began)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="model.onnx")
    given: Any = parser.parse_args(argv)
    try:
        classifier = Classifier(given.folder, given.model)
        windows = []
        for heard in listen(classifier, chunks(given.recording, classifier.rate)):
            windows.append(heard)
            print(f"{heard.end:7.2f} s  {heard.label}  {100 * heard.confidence:.0f} %", flush=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    took = [heard.took for heard in windows]
    factor = sum(took) / (HOP * len(windows))
    print(
        f"real-time factor {factor:.3f} on one core; slowest window {1000 * max(took):.0f} ms of {1000 * HOP:.0f} ms"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
