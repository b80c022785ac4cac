"""Audio: files of every format become normalised 16 kHz mono crops; bad files are named, or left out and counted."""

import io
import json
import logging
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor, Data2VecAudioConfig

from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.examples import PretrainingDataset
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.modalities import sound_files
from data2vec.pretraining.modalities.audio import AudioData, AudioDataArguments
from data2vec.pretraining.modalities.sound_files import AUDIO
from data2vec.tests.reference import SAMPLES


def audio(**fields) -> AudioData:
    fields = {"sources": [{"path": "unused"}], "min_seconds": 0, "max_seconds": 2.0, "batch_seconds": 4} | fields
    return AudioData(AudioDataArguments(**fields), Data2VecAudioConfig())


def examples_of(folder: Path, modality: AudioData, **how) -> PretrainingDataset:
    rows = load_source(Source(path=str(folder)), modality.kind)
    return PretrainingDataset([modality.prepare(rows)], modality, seed=7, **how)


def write_tone(path: Path, hertz: float, seconds: float, rate: int, channels: int = 1, **how) -> None:
    time = np.arange(int(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * hertz * time)
    sides = np.stack([tone * (0.5 + side) for side in range(channels)], axis=1)
    soundfile.write(path, sides, rate, **how)


def loudest(wave: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
    return float(spectrum.argmax()) * 16000 / len(wave)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_every_format_and_rate_becomes_normalised_16_khz_mono(tmp_path, ending, rate):
    write_tone(tmp_path / f"tone.{ending}", 440.0, 1.3, rate, channels=2)
    dataset = examples_of(tmp_path, audio())
    wave = dataset[0]["input_values"]
    assert wave.dtype == torch.float32 and wave.ndim == 1
    assert len(wave) == pytest.approx(1.3 * 16000, abs=1 + 1600 * (ending == "mp3"))
    assert len(wave) <= dataset.lengths[0]  # what the batch's bound counted with
    assert loudest(wave) == pytest.approx(440, abs=2)
    assert wave.mean().abs() < 1e-4 and wave.var(unbiased=False) == pytest.approx(1, abs=1e-3)


def test_a_clip_is_what_the_saved_feature_extractor_makes_of_it(tmp_path):
    rng = np.random.default_rng(0)
    raw = (0.1 * rng.standard_normal(16007) + 0.05).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", raw, 16000, subtype="FLOAT")
    modality = audio()
    modality.processor.save_pretrained(tmp_path / "saved")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "saved")
    expected = extractor(raw, sampling_rate=16000, return_tensors="pt")["input_values"][0]
    assert torch.equal(examples_of(tmp_path, modality)[0]["input_values"], expected)
    assert "attention_mask" in extractor([raw, raw[:9000]], sampling_rate=16000, padding=True)


def test_long_clips_are_cropped_at_random_places_that_the_key_decides(tmp_path):
    rng = np.random.default_rng(0)
    raw = rng.uniform(-1, 1, 160_000).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", raw, 16000, subtype="FLOAT")
    dataset = examples_of(tmp_path, audio())
    windows = np.lib.stride_tricks.sliding_window_view(raw, 64)
    starts = []
    for epoch in range(60):
        wave = dataset[epoch, 0]["input_values"].numpy()
        assert len(wave) == 32_000
        start = int((windows @ wave[:64]).argmax())  # where noise looks like itself
        piece = raw[start : start + 32_000]
        np.testing.assert_allclose(wave, (piece - piece.mean()) / piece.std(), atol=1e-4)
        starts.append(start)
    assert len(set(starts)) > 50 and min(starts) < 16_000 and max(starts) > 112_000
    assert torch.equal(dataset[5, 0]["input_values"], dataset[5, 0]["input_values"])
    evaluation = examples_of(tmp_path, audio(), augment=False)
    piece = raw[:32_000]
    np.testing.assert_allclose(evaluation[0]["input_values"], (piece - piece.mean()) / piece.std(), atol=1e-4)


def test_only_the_crop_of_a_long_file_is_decoded(tmp_path, monkeypatch):
    write_tone(tmp_path / "hour.flac", 440.0, 60.0, 16000)
    dataset, decoded = examples_of(tmp_path, audio()), []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, n, **how: decoded.append(n) or read(self, n, **how))
    dataset[0, 0]
    assert decoded == [32_000]


def test_length_filters_leave_clips_out_and_say_how_many(tmp_path, caplog):
    for seconds in (0.4, 0.9, 1.1, 3.0, 9.0):
        write_tone(tmp_path / f"{seconds}.wav", 440.0, seconds, 8000)
    with caplog.at_level(logging.WARNING):
        dataset = examples_of(tmp_path, audio(min_seconds=1.0, skip_above_seconds=5.0))
    assert dataset.lengths.tolist() == [int(1.1 * 16000), 32_000]
    assert "2 of 5 examples are left out: shorter than min_seconds = 1" in caplog.text
    assert "1 of 5 examples are left out: longer than skip_above_seconds = 5" in caplog.text
    assert len(examples_of(tmp_path, audio(min_seconds=1.0), filtered=False)) == 5  # a labelled set keeps all


def swap(path: Path) -> None:
    """Half the sampling rate, and so twice the length, in a file of the same size and time of writing."""
    wave, rate = soundfile.read(path)
    before = path.stat()
    soundfile.write(path.with_name("other.wav"), wave, rate // 2)
    os.replace(path.with_name("other.wav"), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("source", ["folder", "table.jsonl", "saved"])
def test_lengths_are_read_once_and_again_when_a_file_changes(tmp_path, monkeypatch, source):
    clips = tmp_path / "clips"
    clips.mkdir()
    for tenths in (5, 6, 7):
        write_tone(clips / f"{tenths}.wav", 440.0, tenths / 10, 16000)
    named = [{"audio": f"clips/{tenths}.wav"} for tenths in (5, 6, 7)]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, named)))
    datasets.Dataset.from_list(named).save_to_disk(tmp_path / "saved")
    read, file_of = [], sound_files.file_of
    monkeypatch.setattr(sound_files, "file_of", lambda value: read.append(value) or file_of(value))

    def lengths(**how) -> list[int]:
        read.clear()
        rows = load_source(
            Source(path=str(clips if source == "folder" else tmp_path / source), root=str(tmp_path)), AUDIO
        )
        return PretrainingDataset([rows], audio(), seed=7, **how).lengths.tolist()

    assert (lengths(), len(read)) == ([8000, 9600, 11200], 3)
    assert (lengths(), len(read)) == ([8000, 9600, 11200], 0)
    swap(clips / "6.wav")
    assert lengths() == [8000, 19200, 11200]
    write_tone(clips / "7.wav", 440.0, 0.9, 16000)
    assert lengths() == [8000, 19200, 14400]
    (clips / "5.wav").unlink()
    assert lengths(max_bad_share=1.0) == [19200, 14400]
    write_tone(clips / "5.wav", 440.0, 0.3, 16000)
    assert lengths() == [4800, 19200, 14400]
    assert (lengths(), len(read)) == ([4800, 19200, 14400], 0)


def test_a_file_that_could_not_be_opened_for_a_while_is_used_at_the_next_start(tmp_path, monkeypatch):
    for name in "abc":
        write_tone(tmp_path / f"{name}.wav", 440.0, 0.5, 16000)
    with monkeypatch.context() as patch:
        refused = f"{tmp_path}/b.wav"

        def open_other(file, *rest, **how):
            if file == refused:
                raise PermissionError(13, "Permission denied", file)
            return opened(file, *rest, **how)

        opened = soundfile.SoundFile
        patch.setattr(soundfile, "SoundFile", open_other)
        assert len(examples_of(tmp_path, audio(), max_bad_share=1.0)) == 2
    assert len(examples_of(tmp_path, audio())) == 3


def write_bad(folder: Path) -> dict[str, str]:
    """One file of every kind that cannot be used; name -> problem."""
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(24_000)).astype(np.float32)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "words.mp3").write_text("not sound at all")
    soundfile.write(folder / "nothing.wav", np.zeros((0, 1)), 16000)
    soundfile.write(folder / "zeros.flac", np.zeros(24_000), 16000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(24_000) == 777, np.nan, noise), 16000, subtype="FLOAT")
    soundfile.write(folder / "click.wav", noise[:300], 16000)
    file = io.BytesIO()
    soundfile.write(file, noise, 16000, format="FLAC")
    (folder / "cut.flac").write_bytes(file.getvalue()[:20_000])
    file = io.BytesIO()
    soundfile.write(file, noise, 16000, format="MP3")
    (folder / "cut.mp3").write_bytes(file.getvalue()[:2000])
    return {
        "empty.wav": "empty",
        "words.mp3": "wrong type",
        "nothing.wav": "empty",
        "zeros.flac": "silent",
        "nan.wav": "not finite",
        "click.wav": "too short",
        "cut.flac": "truncated",
        "cut.mp3": "truncated",
    }


@pytest.mark.parametrize(
    "name", ["empty.wav", "words.mp3", "nothing.wav", "zeros.flac", "nan.wav", "click.wav", "cut.flac", "cut.mp3"]
)
def test_a_bad_file_stops_the_run_with_its_name_and_the_fix(tmp_path, name):
    problems = write_bad(tmp_path)
    for other in problems:
        if other != name:
            (tmp_path / other).unlink()
    write_tone(tmp_path / "z_good.wav", 440.0, 1.5, 16000)
    with pytest.raises(ValueError, match=name) as error:
        dataset = examples_of(tmp_path, audio())
        [dataset[0, i] for i in range(len(dataset))]
    assert "data.max_bad_share" in str(error.value)


def test_a_neighbour_takes_the_place_of_a_bad_file_which_is_counted_and_named_once(tmp_path, caplog):
    problems = write_bad(tmp_path)
    for i in range(3):
        write_tone(tmp_path / f"m{i}.wav", 300.0 + 100 * i, 1.0 + 0.1 * i, 16000)
    with caplog.at_level(logging.WARNING):
        dataset = examples_of(tmp_path, audio(), max_bad_share=1.0)
        first = [dataset[4, i] for i in range(len(dataset))]
        again = [dataset[4, i] for i in reversed(range(len(dataset)))][::-1]
    kinds = list(problems.values())
    assert dataset.ledger.counts() == {kind: kinds.count(kind) for kind in set(kinds)}
    for name in problems:
        assert caplog.text.count(name) == 1, name
    assert len(dataset) == 3 + 4  # what only decoding shows to be bad keeps its place
    for one, other, length in zip(first, again, dataset.lengths, strict=True):
        assert torch.equal(one["input_values"], other["input_values"])
        assert len(one["input_values"]) <= length  # a longer neighbour is cut: the batch's bound holds
    assert [example["index"] for example in first] == list(range(7))


def test_nothing_usable_is_an_error(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.random.default_rng(0).standard_normal(8000) / 9, 16000)
    with pytest.raises(ValueError, match="no usable example"):
        examples_of(tmp_path, audio(min_seconds=1.0))
    (tmp_path / "short.wav").unlink()
    soundfile.write(tmp_path / "zeros.wav", np.zeros(16000), 16000)
    dataset = examples_of(tmp_path, audio(), max_bad_share=1.0)
    with pytest.raises(ValueError, match="zeros.wav"):
        dataset[0, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_seconds": 3.0}, r"data.min_seconds = 3.0.*max_seconds = 2.0"),
        ({"batch_seconds": 1}, r"data.batch_seconds = 1.0.*max_seconds"),
        ({"max_seconds": 0.01}, r"data.max_seconds = 0.01.*720 samples"),
        ({"max_seconds": "long"}, r"data.max_seconds = 'long'.*give a number"),
        ({"skip_above_seconds": 1.0, "min_seconds": 1.5}, r"data.skip_above_seconds = 1.0"),
        ({"bucket_width": 0.0}, r"data.bucket_width = 0.0"),
    ],
)
def test_impossible_numbers_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        audio(**fields)


def test_a_hugging_face_dataset_of_embedded_audio():
    modality = audio(min_seconds=2.0, max_seconds=20.0, batch_seconds=60)
    rows = load_source(Source(path=str(SAMPLES / "librispeech_small"), split="validation"), modality.kind)
    dataset = PretrainingDataset([modality.prepare(rows)], modality, seed=0)
    durations = [soundfile.info(io.BytesIO(row["audio"]["bytes"])).frames for row in rows]
    assert dataset.lengths.tolist() == [min(n, 320_000) for n in durations if n >= 32_000]
    raw, _ = soundfile.read(io.BytesIO(rows[0]["audio"]["bytes"]), dtype="float32")
    np.testing.assert_allclose(dataset[3, 0]["input_values"], (raw - raw.mean()) / raw.std(), atol=1e-3)
