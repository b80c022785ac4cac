"""What is asked about the spoken digits: of the clip (speaker, digit, duration, pitch) and of single frames.

Clips of the four speakers that encoders are pretrained on, without labels; a probe is tested on other clips of theirs.
Waves are normalised as the encoder reads them, so that energy is relative to that of the clip.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import soundfile
import torch
from experiment import Experiment
from knows_probe import Inputs, Question, Splits, one_hot
from numpy.lib.stride_tricks import sliding_window_view
from prepare import TEST_SPEAKERS
from scipy.fft import dct
from sklearn.cluster import KMeans
from torch.nn.functional import pad

from data2vec.pretraining.evaluation.raw_features import WINDOW, log_mel, mel_statistics


RATE = 16_000
HOP, FIELD = 320, 340  # samples: frame i of the encoder reads those from HOP * i, FIELD of them
SHORTEST, LONGEST = 0.2, 1.0  # seconds, as in the recipes
PITCH_WINDOW, PITCH_HOP, PITCHES = 640, 160, (75.0, 400.0)  # samples, samples, Hz
VOICED = 0.6  # normalised autocorrelation of a voiced frame
OCTAVE_COST = 0.03  # of the autocorrelation, for each octave that a pitch is below the highest
COEFFICIENTS, UNITS = 13, 20
FRAMES = 2  # that are asked about, of each clip


@dataclass(frozen=True)
class Clip:
    """Attributes:
    wave: (samples,) fp32, mean 0 and variance 1.
    mel: (mels, frames), a column for each frame of the encoder.
    pitch: Hz, 0 where nothing is voiced.
    """

    wave: np.ndarray
    mel: np.ndarray
    speaker: str
    digit: int
    pitch: float


def splits(of: Experiment, processor: Any) -> Splits:
    folder = of.prepared.probes
    names = ("test/train", "pretrain")
    train, everything = (datasets.Dataset.from_parquet(str(folder / f"{name}.parquet")) for name in names)
    known = {_key(row) for row in train}
    clips = [read(row) for row in train], [read(row) for row in everything if _key(row) not in known]
    parts = [[clip for clip in part if clip is not None and clip.pitch] for part in clips]
    assert not {clip.speaker for part in parts for clip in part} & set(TEST_SPEAKERS)
    units = sound_units([clip.mel for clip in parts[0]])
    return [(asked(parts[0], units, 0), asked(parts[1], units, 1))]


def _key(row: dict) -> tuple:
    return row["speaker_id"], row["digit"], row["take"]


def read(row: dict) -> Clip | None:
    """None where it is shorter than what encoders are pretrained on."""
    wave, _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
    if len(wave) < SHORTEST * RATE:
        return None
    wave = wave[: int(LONGEST * RATE)]
    wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    return Clip(wave, frame_energies(wave), row["speaker_id"], row["digit"], pitch(wave))


def frame_energies(wave: np.ndarray) -> np.ndarray:
    """Log-mel energies around the middle of each frame of the encoder, (mels, frames)."""
    border = (WINDOW - FIELD) // 2
    return log_mel(pad(torch.from_numpy(wave), (border, border)), WINDOW, HOP, center=False).numpy()


def levels(wave: np.ndarray) -> np.ndarray:
    """Energy of each frame of the encoder in dB, (frames,); that of the clip is 0."""
    power = (sliding_window_view(wave, FIELD)[::HOP] ** 2).mean(1) / np.mean(wave**2)
    return 10 * np.log10(power + 1e-6)


def pitch(wave: np.ndarray) -> float:
    """Median over the voiced frames of the fundamental frequency in Hz, 0 without any.

    The highest autocorrelation of a windowed frame over that of the window (Boersma 1993), higher pitches first.
    """
    if len(wave) < PITCH_WINDOW:
        return 0.0
    window = np.hanning(PITCH_WINDOW)
    frames = sliding_window_view(wave, PITCH_WINDOW)[::PITCH_HOP]
    loud = frames.std(1) > 0.2 * frames.std(1).max()
    lags = np.arange(int(RATE / PITCHES[1]), int(RATE / PITCHES[0]) + 1)
    found = _autocorrelation((frames - frames.mean(1, keepdims=True)) * window)[:, lags]
    found /= _autocorrelation(window)[lags]
    best = (found - OCTAVE_COST * np.log2(lags / lags[0])).argmax(1)
    voiced = loud & (found[np.arange(len(found)), best] > VOICED)
    return float(np.median(RATE / lags[best[voiced]])) if voiced.any() else 0.0


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """Over that at lag 0, (..., lags)"""
    found = np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * PITCH_WINDOW)) ** 2)
    return found / np.maximum(found[..., :1], 1e-12)


def cepstrum(mel: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstral coefficients, (frames, coefficients)."""
    return dct(mel.T, norm="ortho")[:, :COEFFICIENTS]


def sound_units(mels: Sequence[np.ndarray]) -> KMeans:
    """Clusters of the cepstra of frames, which stand in for phones: nobody has labelled these."""
    return KMeans(UNITS, n_init=3, random_state=0).fit(np.concatenate([cepstrum(mel) for mel in mels]))


def asked(clips: Sequence[Clip], units: KMeans, seed: int) -> Inputs:
    rng = np.random.default_rng(seed)
    count = [clip.mel.shape[1] for clip in clips]
    frames = np.array([(i, step) for i in range(len(clips)) for step in rng.choice(count[i], FRAMES, replace=False)])

    def at_frames(values: Sequence[np.ndarray]) -> np.ndarray:
        """Those of the frames that are asked about, from all of each clip (frames, ...)."""
        return np.array([values[i][step] for i, step in frames])

    speakers = np.unique([clip.speaker for clip in clips], return_inverse=True)[1]
    digits = np.array([clip.digit for clip in clips])
    octaves = column([np.log2(len(clip.wave) / RATE) for clip in clips])
    semitones = column([12 * np.log2(clip.pitch / 100) for clip in clips])
    unit = at_frames([units.predict(cepstrum(clip.mel)) for clip in clips])
    level = column(at_frames([levels(clip.wave) for clip in clips]))
    place = column(at_frames([np.linspace(0, 1, number) for number in count]))
    of_clip = {"log-mel mean and spread": np.stack([mel_statistics(torch.from_numpy(clip.mel)) for clip in clips])}
    of_frame = {"log-mel frame": at_frames([clip.mel.T for clip in clips])}
    return Inputs(
        [{"input_values": torch.from_numpy(clip.wave)} for clip in clips],
        {
            "speaker": Question(speakers, of_clip),
            "digit": Question(digits, of_clip),
            "duration": Question(octaves, of_clip | {"digit alone": one_hot(digits, digits.max() + 1)}),
            "pitch": Question(semitones, of_clip | {"speaker alone": one_hot(speakers, speakers.max() + 1)}),
            "energy": Question(level, of_frame, frames),
            "sound unit": Question(unit, of_frame, frames),
            "place in the word": Question(place, of_frame, frames),
        },
    )


def column(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)[:, None]
