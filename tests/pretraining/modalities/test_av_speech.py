"""Speech with mouth crops: sound of a film, of a file beside it or of a column, on the clock of the video."""

import io
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch

from data2vec.modeling import AvData2VecFeatureExtractor
from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.examples import PretrainingDataset
from data2vec.pretraining.data.modality import BadExample
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.modalities.av_speech import AvSpeechData, AvSpeechDataArguments
from data2vec.pretraining.modalities.video_files import read_sound


CONFIG = SimpleNamespace(num_mel_bins=26, num_stacked_frames=4, image_size=16, resnet_width=2)
FRAMES = np.random.default_rng(0).integers(0, 256, (20, 20, 22), dtype=np.uint8)
WAVE = (np.sin(np.arange(20 * 640) / 9) * np.linspace(0.1, 0.6, 20 * 640)).astype(np.float32)


def modality(**fields) -> AvSpeechData:
    fields = {"min_seconds": 0.2} | fields
    return AvSpeechData(AvSpeechDataArguments(sources=[{"path": "unused"}], **fields), CONFIG)


def npy(array: np.ndarray) -> dict:
    file = io.BytesIO()
    np.save(file, array)
    return {"bytes": file.getvalue(), "path": None}


def wav(wave: np.ndarray, rate: int = 16000) -> dict:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="FLOAT")
    return {"bytes": file.getvalue(), "path": None}


def write_film(path, sound: bool = True, rate: int = 25) -> None:
    """Lossless pictures and sound, of 48 kHz and two channels."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=rate)
        video.height, video.width, video.pix_fmt = *FRAMES.shape[1:], "gray"
        audio = container.add_stream("pcm_s16le", rate=48000, layout="stereo") if sound else None
        for frame in FRAMES:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(video.encode())
        if audio is not None:
            samples = (
                (np.repeat(WAVE, 3) * 32767).astype(np.int16).repeat(2)[None]
            )  # both channels, three times as fast
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate = 48000
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


def test_a_film_brings_its_sound(tmp_path):
    write_film(tmp_path / "a.mkv")
    wave = read_sound(str(tmp_path / "a.mkv"), "a", 16000)
    assert abs(len(wave) - len(WAVE)) < 40 and np.corrcoef(wave[1000:12000], WAVE[1000:12000])[0, 1] > 0.999
    data = modality()
    rows = load_source(Source(path=str(tmp_path)), data.kind)
    example = PretrainingDataset([data.prepare(rows)], data, seed=7, augment=False)[0]
    assert example["input_features"].shape == (20, 104) and example["pixel_values"].shape == (20, 1, 16, 16)
    assert torch.equal(example["pixel_values"], data.processor.video(FRAMES))
    expected = data.processor.audio(WAVE, 20)
    assert (example["input_features"] - expected).abs().mean() < 0.15


def test_sound_beside_a_film_comes_first(tmp_path):
    write_film(tmp_path / "a.mkv")
    write_film(tmp_path / "b.mkv")
    soundfile.write(tmp_path / "a.wav", WAVE[::-1], 16000, subtype="FLOAT")
    data = modality()
    rows = load_source(Source(path=str(tmp_path)), data.kind)
    of = [data.read(row, None)["input_features"] for row in rows]
    assert torch.equal(of[0], data.processor.audio(WAVE[::-1].copy(), 20)) and not torch.equal(of[0], of[1])


def test_columns_of_a_table(tmp_path):
    rows = {"frames": [npy(FRAMES)["bytes"]], "audio": [wav(WAVE)["bytes"]], "text": ["no"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "clips.parquet")
    data = modality()
    found = load_source(Source(path=str(tmp_path / "clips.parquet")), data.kind)
    assert set(found.column_names) == {"video", "audio"}
    example = data.read(found[0], None)
    assert torch.equal(example["input_features"], data.processor.audio(WAVE, 20))
    assert torch.equal(example["pixel_values"], data.processor.video(FRAMES))


@pytest.mark.parametrize(("rate", "count"), [(25, 20), (50, 10), (30, 17), (12.5, 40)])
def test_frames_at_25_a_second(rate, count):
    """Each is the one that is shown in its middle."""
    frames = AvSpeechData.at_rate(np.arange(20), rate)
    assert len(frames) == count
    assert frames.tolist() == [min(int((n + 0.5) * rate / 25), 19) for n in range(count)]


def test_crops_keep_sound_and_video_together():
    """A place in time and in the frame of its own, the sound of the same frames, mirrored or not."""
    data, row = modality(max_seconds=0.4, flip=0.5), {"video": npy(FRAMES), "audio": wav(WAVE)}
    starts, mirrored = set(), set()

    def cut(start, top, left, flip):
        pixels = data.processor.video(FRAMES[start : start + 10], top, left)
        return pixels.flip(-1) if flip else pixels

    for seed in range(12):
        example = data.read(row, np.random.default_rng(seed))
        assert len(example["input_features"]) == len(example["pixel_values"]) == 10
        found = [
            (start, top, left, flip)
            for start in range(11) for top in range(5) for left in range(7) for flip in (False, True)
            if torch.equal(cut(start, top, left, flip), example["pixel_values"])
        ]  # fmt: skip
        ((start, _, _, flip),) = found
        assert torch.equal(example["input_features"], data.processor.audio(WAVE[start * 640 : start * 640 + 6400], 10))
        starts.add(start)
        mirrored.add(flip)
    assert len(starts) > 3 and mirrored == {False, True}


@pytest.mark.parametrize(
    ("video", "sound", "problem", "words"),
    [
        (FRAMES, WAVE[:1000], "damaged", "0.06 s of sound and 0.80 s of video"),
        (FRAMES, np.tile(WAVE, 3), "damaged", "s of sound and 0.80 s of video"),
        (FRAMES[:4], WAVE[:2560], "too short", "has 0.16 s"),
        (FRAMES[:, :12], WAVE, "too small", "12 x 22 pixels: crops of the mouth must be at least 16 x 16"),
        (FRAMES, np.zeros_like(WAVE), "silent", "silent"),
    ],
)
def test_what_cannot_be_used_is_named(video, sound, problem, words):
    with pytest.raises(BadExample, match=words) as error:
        modality().read({"video": npy(video), "audio": wav(sound)}, None)
    assert error.value.problem == problem


def test_a_film_without_sound_is_named(tmp_path):
    write_film(tmp_path / "a.mkv", sound=False)
    data = modality()
    with pytest.raises(BadExample, match="has no sound, and there is none beside it"):
        data.read(load_source(Source(path=str(tmp_path)), data.kind)[0], None)


def test_the_processor_reads_either_stream():
    extractor = AvData2VecFeatureExtractor(image_size=16)
    assert set(extractor(audio=WAVE, sampling_rate=16000)) == {"input_features"}
    both = extractor(audio=[WAVE, WAVE[:6400]], videos=[FRAMES, FRAMES[:10]])
    assert both["attention_mask"].sum(1).tolist() == [20, 10] and not both["pixel_values"][1, 10:].any()
    with pytest.raises(ValueError, match="sampling_rate = 8000: resample to 16000"):
        extractor(audio=WAVE, sampling_rate=8000)
    with pytest.raises(ValueError, match="of at least 16 x 16 pixels"):
        extractor(videos=FRAMES[:, :9])
