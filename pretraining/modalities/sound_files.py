"""Sound files of any format and rate -> samples at 16 kHz mono, or what is wrong with them."""

import io
import math
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import soundfile
import soxr

from ..data.bad_examples import BadExample
from ..data.file_types import AUDIO_TYPES, content_of, missing_bytes, size_of, unopened
from ..data.modality import Rows
from ..data.paths import state_of
from ..data.sources import MediaKind


def _wav(array: Any, rate: int) -> bytes:
    """Samples, (samples,) or (channels, samples), as the content of a file."""
    wave = np.asarray(array)
    wave = wave / 32768 if np.issubdtype(wave.dtype, np.integer) else wave
    file = io.BytesIO()
    soundfile.write(file, wave.T, int(rate), format="WAV", subtype="FLOAT")
    return file.getvalue()


AUDIO = MediaKind(
    column="audio",
    feature=datasets.Audio,
    extensions=(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"),
    known_columns=("audio", "speech", "file", "path"),
    encode=_wav,
)
MISSING_TAIL = 0.1  # seconds a decoder may return less than the header says: lossy formats round up to whole frames
SAMPLING_RATE = 16_000
RATES = (1_000, 768_000)  # that a header is believed to mean
LOUDEST = 1e6  # full scale is 1, or 32768 where somebody wrote integers as floats
MOST_FRAMES = 1 << 40  # a header that says more lies; the product with a rate stays within int64
BLOCK = 1 << 16


def read_crop(value: Any, name: str, limit: int, rng: np.random.Generator | None) -> np.ndarray:
    """At most `limit` samples at 16 kHz mono, fp32, from a random place (from the start if `rng` is None).

    `value` is a path, the bytes of a file or {"bytes", "path"}. Raises `BadExample` for a file that is unreadable,
    empty, truncated, silent or not finite.
    """
    try:
        sound = soundfile.SoundFile(file_of(value))
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise unopened(value, name, "audio", AUDIO_TYPES, error) from error
    with sound:
        rate, total = sound.samplerate, sound.frames
        if not RATES[0] <= rate <= RATES[1]:
            raise BadExample(
                f"{name} claims {rate} samples per second, outside {RATES[0]} to {RATES[1]}: repair it.",
                problem="sampling rate",
            )
        if total == 0 and missing_bytes(value) == 0:
            raise BadExample(f"{name} holds no sound: remove it.", problem="empty")
        wanted = min(total, math.ceil(limit * rate / SAMPLING_RATE))
        try:
            if rng is not None and wanted < total:
                sound.seek(int(rng.integers(total - wanted + 1)))
            wave = sound.read(wanted, dtype="float32", always_2d=True)  # (samples, channels)
        except (soundfile.LibsndfileError, OSError, MemoryError) as error:
            raise _broken_off(value, name, error) from error
    # What libsndfile makes of a wav that was cut is a shorter clip; its header still knows.
    seconds = max((wanted - len(wave)) / rate, _missing_seconds(value, total / rate))
    if seconds > MISSING_TAIL or total == 0:
        raise BadExample(f"{name} ends {seconds:.1f} s before its header says: repair it.", problem="truncated")
    mono = wave.mean(axis=1)  # (samples,)
    if not np.isfinite(mono).all() or np.abs(mono).max() > LOUDEST:
        raise BadExample(
            f"{name} holds NaN, infinite or absurdly large samples: repair or remove it.", problem="not finite"
        )
    if mono.min() == mono.max():
        raise BadExample(f"{name} is silent (all samples of a crop are equal): remove it.", problem="silent")
    if rate != SAMPLING_RATE:
        mono = soxr.resample(mono, rate, SAMPLING_RATE)
    return mono[:limit]


def _broken_off(value: Any, name: str, error: Exception) -> BadExample:
    """Truncated, where a decoder that reads from the start comes to the end of the file; else damaged."""
    read, total, rate, reason = 0, 0, 1, getattr(error, "error_string", error)
    content = content_of(value)
    with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
        watched = _Watched(file)
        try:
            with soundfile.SoundFile(watched) as sound:
                sound.seekable = lambda: False  # soundfile seeks after every read, which fails in such a file
                total, rate = sound.frames, sound.samplerate
                while block := len(sound.read(BLOCK, dtype="float32", always_2d=True)):
                    read += block
        except (soundfile.LibsndfileError, OSError) as later:
            reason = getattr(later, "error_string", later)
        at_end = watched.furthest >= size_of(value)
    if at_end and read < total:
        missing = (total - read) / rate
        return BadExample(f"{name} ends {missing:.1f} s before its header says: repair it.", problem="truncated")
    return BadExample(f"{name} cannot be decoded ({reason}): repair or remove it.", problem="damaged")


class _Watched(io.RawIOBase):
    """A file that knows how far it was read."""

    def __init__(self, file: BinaryIO):
        self.file, self.furthest = file, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)  # type: ignore[attr-defined]
        self.furthest = max(self.furthest, self.file.tell())
        return count


def _missing_seconds(value: Any, seconds: float) -> float:
    """How much a RIFF or AIFF file of so many seconds lacks of what its header says."""
    missing = missing_bytes(value)
    return missing * seconds / max(size_of(value), 1) if missing else 0.0


def file_of(value: Any) -> Any:
    content = content_of(value)
    return io.BytesIO(content) if isinstance(content, bytes) else content


def read_headers(rows: Rows, num_proc: int) -> dict[str, np.ndarray]:
    """Frames and rate of every file, (rows,) int64 each, from the headers alone; rate 0: cannot be used.

    They are kept in `datasets`' cache, and read again as soon as a file changes.
    """
    assert isinstance(rows, datasets.Dataset)
    state = state_of(rows, AUDIO.column)
    table = rows.map(
        headers_of,
        batched=True,
        batch_size=64,
        input_columns=[AUDIO.column],
        remove_columns=rows.column_names,
        num_proc=num_proc if num_proc > 1 and len(rows) > num_proc else None,
        desc="Reading durations",
        new_fingerprint=state,
        cache_file_name=str(Path(datasets.config.HF_DATASETS_CACHE, "sound_headers", f"{state}.arrow")),
    ).with_format("numpy")
    found = {name: np.array(table[name][:], dtype=np.int64) for name in ("frames", "rate")}
    for i in np.flatnonzero(found["rate"] == 0).tolist():  # what was wrong may be no part of the file, such as a right
        (found["frames"][i],), (found["rate"][i],) = headers_of([rows[i][AUDIO.column]]).values()
    return found


def headers_of(values: list[Any]) -> dict[str, list[int]]:
    frames, rates = [], []
    for value in values:
        try:
            with soundfile.SoundFile(file_of(value)) as sound:  # soundfile.info asks for more, and takes longer
                length, rate = sound.frames, sound.samplerate
        except (soundfile.LibsndfileError, OSError, TypeError):
            length = rate = 0
        frames.append(min(length, MOST_FRAMES))
        rates.append(rate if length > 0 and RATES[0] <= rate <= RATES[1] else 0)
    return {"frames": frames, "rate": rates}
