"""Whether films are decoded as fast as they are trained on: `python benchmarks/video.py`.

Made-up films (H.264, with sound for lips) are read as the base recipes of AV-data2vec and SV-data2vec read them. The
rate that two workers deliver is that of a step which just does not wait. Beside it is a clip's share of a step on this
processor: forward and backward of base size on some frames of it, times the frames. Processor time of one thread, the
least of some repetitions.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from points import least

from data2vec.modeling import AvData2VecConfig, AvData2VecForPreTraining, SvData2VecConfig, SvData2VecForPreTraining
from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.modalities.av_speech import AvSpeechData, AvSpeechDataArguments
from data2vec.pretraining.modalities.skeleton_video import SkeletonVideoData, SkeletonVideoDataArguments


WORKERS = 2
SOURCES = [Source(path="made up")]


def make_film(path: Path, seconds: float, rate: int, size: tuple[int, int], sound: bool) -> None:
    """A film of this (width, height): a smooth picture that moves, with noise."""
    width, height = size
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        voice = container.add_stream("aac", rate=16_000) if sound else None
        y, x = np.mgrid[0:height, 0:width] / height
        for number in range(round(seconds * rate)):
            wave = 128 + 80 * np.sin(9 * x + 0.2 * number) * np.cos(7 * y)
            picture = np.clip(wave[..., None] + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if voice is not None:
            samples = rng.normal(0, 0.1, (1, round(seconds * 16_000))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(voice.encode(frame))
            container.mux(voice.encode(None))


def lips(folder: Path, repetitions: int, tiny: bool) -> tuple[float, float]:
    """Seconds to read a clip of 10 s, and of a step for each of its frames."""
    config = AvData2VecConfig(**SMALL if tiny else {})
    seconds, frames = (1, 5) if tiny else (10, 50)
    make_film(folder / "lips.mp4", seconds, 25, (96, 96), sound=True)
    data = AvSpeechData(AvSpeechDataArguments(sources=SOURCES), config)
    rng = np.random.default_rng(0)
    read = least(lambda: data.read({"video": str(folder / "lips.mp4")}, rng), repetitions)
    model = AvData2VecForPreTraining(config).train()
    inputs = {
        "input_features": torch.randn(1, frames, config.num_mel_bins * config.num_stacked_frames),
        "pixel_values": torch.randn(1, frames, 1, config.image_size, config.image_size),
    }
    return read, least(lambda: model(**inputs).loss.backward(), repetitions) / frames * seconds * 25


def actions(folder: Path, repetitions: int, tiny: bool) -> tuple[float, float]:
    """Seconds to read a clip of 3 s, and of a step for each of the frames that are read of it."""
    config = SvData2VecConfig(**SMALL if tiny else {}, max_position_embeddings=6 if tiny else 40)
    make_film(folder / "action.mp4", 0.4 if tiny else 3, 30, (64, 64) if tiny else (480, 480), sound=False)
    count = 12 if tiny else 90
    skeleton = np.random.default_rng(0).uniform(0, 100, (count, 1, config.num_joints, 2)).tolist()
    data = SkeletonVideoData(SkeletonVideoDataArguments(sources=SOURCES), config)
    rng = np.random.default_rng(0)
    row = {"video": str(folder / "action.mp4"), "skeleton": skeleton}
    read = least(lambda: data.read(row, rng), repetitions)
    model, frames = SvData2VecForPreTraining(config).train(), config.max_position_embeddings
    inputs = {
        "pixel_values": torch.randn(1, frames, 3, config.image_size, config.image_size),
        "keypoint_values": torch.randn(1, frames, config.num_persons, config.num_joints, 2),
    }
    return read, least(lambda: model(**inputs).loss.backward(), repetitions)


SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 16, "resnet_width": 2,
    "image_size": 32,
}  # fmt: skip
CLIPS = {
    "lips, 10 s of 96 x 96 pixels": (lips, 16),  # clips of a batch of the recipe
    "actions, 3 s of 480 x 480 pixels": (actions, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="small models and films, for tests")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"| clips | read, ms | batch | {WORKERS} workers keep up with, steps/s | step for it here, ms | read : step |"
    )
    print("| --- | --: | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (measure, batch) in CLIPS.items():
            read, step = measure(Path(folder), given.repetitions, given.tiny)
            rate = WORKERS / (batch * read)
            print(f"| {name} | {1000 * read:.0f} | {batch} | {rate:.2f} | {1000 * step:.0f} | 1 : {step / read:.0f} |")


if __name__ == "__main__":
    main()
