"""Writes `builtin:espeak-digits`: spoken words, one clip per row, with `datasets.save_to_disk`.

Run by builtin.py in a process of its own and in this fixed order, since the synthesiser's sound depends on all it
said before in the same process. Clips are 16 kHz FLAC with white noise at 5 to 20 dB.
"""

import ctypes
import io
import sys
from collections.abc import Iterator

import datasets
import espeakng_loader
import numpy as np
import soundfile
import soxr


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OTHER_WORDS = (
    "about above after again along always animal answer apple around became because before better between bird "
    "black boat book bring brother building carry center children city close color country different door early "
    "earth enough every family father feather field follow garden girl great green group happy heard house island "
    "kitchen large learn letter light little machine money morning mother mountain music never night number orange "
    "paper people picture river"
).split()
# None of them breathes: eSpeak NG's breath noise is another one in every process.
VOICES = {
    "train": ("m1", "m3", "m4", "f1", "f4", "linda", "croak", "klatt2"),
    "validation": ("m7", "belinda"),
    "test": ("m2", "m6", "steph", "klatt"),
}
ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp")
TAKES_OF_DIGITS, TAKES_OF_WORDS = 15, 2
RATES, PITCHES, NOISE_DB = (130, 260), (25, 75), (5.0, 20.0)  # words a minute; eSpeak's scale; signal to noise
SAMPLING_RATE = 16_000

SYNCHRONOUS, RATE_PARAMETER, PITCH_PARAMETER, UTF8 = 2, 1, 3, 1  # of eSpeak NG's speak_lib.h


class Synthesizer:
    """eSpeak NG through its C interface."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        if self.rate <= 0:
            raise RuntimeError(f"eSpeak NG does not start with the data in {data.decode()}")
        self.chunks: list[bytes] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = kind(self._receive)  # kept: the library only holds a pointer
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: int | None) -> int:
        if samples and count > 0:
            self.chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, word: str, voice: str, rate: int, pitch: int) -> np.ndarray:
        """(samples,) fp32 at `self.rate`."""
        self.chunks.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"eSpeak NG has no voice {voice!r}")
        self.library.espeak_SetParameter(RATE_PARAMETER, rate, 0)
        self.library.espeak_SetParameter(PITCH_PARAMETER, pitch, 0)
        text = word.encode() + b"\0"
        self.library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        return np.frombuffer(b"".join(self.chunks), dtype=np.int16).astype(np.float32) / 32768


def clips(synthesizer: Synthesizer, split: str) -> Iterator[dict[str, object]]:
    """The rows of a split."""
    rng = np.random.default_rng(sorted(VOICES).index(split))
    words = [(word, label, TAKES_OF_DIGITS) for label, word in enumerate(DIGITS)]
    if split == "train":
        words += [(word, -1, TAKES_OF_WORDS) for word in OTHER_WORDS]
    for voice in VOICES[split]:
        for word, label, takes in words:
            for _ in range(takes):
                accent = str(rng.choice(ACCENTS))
                rate, pitch = int(rng.integers(*RATES)), int(rng.integers(*PITCHES))
                sound = synthesizer.say(word, f"{accent}+{voice}", rate, pitch)
                sound = soxr.resample(sound, synthesizer.rate, SAMPLING_RATE)
                power = np.mean(sound**2) / 10 ** (rng.uniform(*NOISE_DB) / 10)
                noisy = sound + rng.standard_normal(len(sound), dtype=np.float32) * np.sqrt(power)
                file = io.BytesIO()
                soundfile.write(
                    file, 0.5 * noisy / np.abs(noisy).max(), SAMPLING_RATE, format="FLAC", subtype="PCM_16"
                )
                audio = {"bytes": file.getvalue(), "path": None}
                yield {"audio": audio, "label": label, "word": word, "voice": voice}


def main(folder: str) -> None:
    synthesizer = Synthesizer()
    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=list(DIGITS)),  # -1: another word
            "word": datasets.Value("string"),
            "voice": datasets.Value("string"),
        }
    )
    splits = {name: datasets.Dataset.from_list(list(clips(synthesizer, name)), features=features) for name in VOICES}
    datasets.DatasetDict(splits).save_to_disk(folder)


if __name__ == "__main__":
    main(sys.argv[1])
