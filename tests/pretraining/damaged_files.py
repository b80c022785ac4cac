"""Folders of damaged files of many kinds among good ones: what downloads, disks and people do to data.

Every kind says what it is to be counted under. A handful of variants of each is made once and written many times, so
that hundreds of files take no time.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image


RATE, SAMPLES = 16_000, 6_000
VARIANTS = 3
HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99999\n"


@dataclass(frozen=True)
class Kind:
    """`make(rng)` gives the bytes of a file; `problem` is None for a good one."""

    name: str
    ending: str
    problem: str | None
    make: Callable[[np.random.Generator], bytes]


def write_files(folder: Path, kinds: list[Kind], damaged: int, good: int, seed: int = 0) -> dict[str, str | None]:
    """Files of all kinds in random order; name -> the problem it is to be counted under, None for a good one."""
    rng = np.random.default_rng(seed)
    broken = [kind for kind in kinds if kind.problem is not None]
    whole = [kind for kind in kinds if kind.problem is None]
    chosen = [broken[i % len(broken)] for i in range(damaged)] + [whole[i % len(whole)] for i in range(good)]
    variants = {kind.name + kind.ending: [kind.make(rng) for _ in range(VARIANTS)] for kind in kinds}
    problems: dict[str, str | None] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, place in enumerate(rng.permutation(len(chosen))):
        kind = chosen[place]
        path = folder / f"{number:05d}-{kind.name}{kind.ending}"
        content = variants[kind.name + kind.ending][number % VARIANTS]
        if kind.problem == "missing":
            path.symlink_to(folder / "gone" / path.name)
        else:
            path.write_bytes(content)
        problems[str(path)] = kind.problem
    return problems


# ---- audio ----


def noise(rng: np.random.Generator, samples: int = SAMPLES, channels: int = 1) -> np.ndarray:
    return (0.1 * rng.standard_normal((samples, channels))).astype(np.float32)


def sound(wave: np.ndarray, kind: str = "WAV", rate: int = RATE, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


def patched(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def spoilt(wave: np.ndarray, value: float) -> np.ndarray:
    wave = wave.copy()
    wave[len(wave) // 3] = value
    return wave


def flac_that_lies(rng: np.random.Generator) -> bytes:
    content = sound(noise(rng), "FLAC")  # the 36-bit number of samples ends at byte 26
    return patched(content, 22, struct.pack(">I", 10 * SAMPLES))


def flac_with_holes(rng: np.random.Generator) -> bytes:
    content = sound(noise(rng, 24_000), "FLAC")
    for place in range(len(content) // 9, len(content), 3000):  # no crop avoids them
        content = patched(content, place, bytes(min(500, len(content) - place)))
    return content


AUDIO = [
    Kind("cut", ".flac", "truncated", lambda rng: sound(noise(rng), "FLAC")[:5000]),
    Kind("cut", ".wav", "truncated", lambda rng: sound(noise(rng))[:7000]),
    Kind("header-says-more", ".wav", "truncated", lambda rng: patched(
        patched(sound(noise(rng)), 4, struct.pack("<I", 400_000_036)), 40, struct.pack("<I", 400_000_000))),
    Kind("header-says-more", ".flac", "truncated", flac_that_lies),
    Kind("holes", ".flac", "damaged", flac_with_holes),
    Kind("no-bytes", ".wav", "empty", lambda rng: b""),
    Kind("no-frames", ".wav", "empty", lambda rng: sound(noise(rng, 0))),
    Kind("nan", ".wav", "not finite", lambda rng: sound(spoilt(noise(rng), np.nan), subtype="FLOAT")),
    Kind("inf", ".wav", "not finite", lambda rng: sound(spoilt(noise(rng), np.inf), subtype="FLOAT")),
    Kind("huge-samples", ".wav", "not finite", lambda rng: sound(1e30 * noise(rng), subtype="FLOAT")),
    Kind("zeros", ".flac", "silent", lambda rng: sound(0 * noise(rng), "FLAC")),
    Kind("constant", ".wav", "silent", lambda rng: sound(0 * noise(rng) + 0.25)),
    Kind("one-hertz", ".wav", "sampling rate", lambda rng: patched(sound(noise(rng)), 24, struct.pack("<I", 1))),
    Kind("gigahertz", ".wav", "sampling rate", lambda rng: patched(sound(noise(rng)), 24, b"\xff\xff\xff\x7f")),
    Kind("words", ".wav", "wrong type", lambda rng: b"The quick brown fox has no sound at all.\n"),
    Kind("page", ".flac", "wrong type", lambda rng: HTML),
    Kind("picture", ".ogg", "wrong type", lambda rng: picture(rng, "JPEG")),
    Kind("pointer", ".wav", "wrong type", lambda rng: LFS),
    Kind("click", ".wav", "too short", lambda rng: sound(noise(rng, 150))),
    Kind("random", ".wav", "unreadable", lambda rng: b"\x00" + rng.bytes(3000)),
    Kind("no-channels", ".wav", "unreadable", lambda rng: patched(sound(noise(rng)), 22, bytes(2))),
    Kind("dangling", ".wav", "missing", lambda rng: b""),
    Kind("good", ".wav", None, lambda rng: sound(noise(rng))),
    Kind("good", ".flac", None, lambda rng: sound(noise(rng), "FLAC")),
    Kind("good", ".mp3", None, lambda rng: sound(noise(rng), "MP3")),
    Kind("good-float", ".wav", None, lambda rng: sound(noise(rng), subtype="FLOAT")),
    Kind("good-stereo", ".wav", None, lambda rng: sound(noise(rng, channels=2))),
    Kind("good-7-channels", ".wav", None, lambda rng: sound(noise(rng, channels=7))),
    Kind("good-44-kHz", ".flac", None, lambda rng: sound(noise(rng, 16_500), "FLAC", 44_100)),
    Kind("good-piped", ".wav", None, lambda rng: patched(
        patched(sound(noise(rng)), 4, b"\xff" * 4), 40, b"\xff" * 4)),
]  # fmt: skip


# ---- images ----


def pixels(rng: np.random.Generator, channels: int = 3, side: int = 48) -> np.ndarray:
    return rng.integers(0, 255, (side, side, channels), dtype=np.uint8).squeeze()


def picture(rng: np.random.Generator, kind: str, mode: str = "RGB", **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(rng)).convert(mode).save(file, format=kind, **how)
    return file.getvalue()


def png(width: int, height: int, data: bytes, before: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def floats(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.random((20, 20), dtype=np.float32)).save(file, format="TIFF")
    return file.getvalue()


def lab(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.frombytes("LAB", (48, 48), rng.bytes(3 * 48 * 48)).save(file, format="TIFF")
    return file.getvalue()


def sixteen_bits(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 65535, (40, 40), dtype=np.uint16)).save(file, format="PNG")
    return file.getvalue()


def turned(rng: np.random.Generator) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(rng, "JPEG", exif=exif)


def half_clear(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(rng)).convert("P").save(file, format="PNG", transparency=bytes(range(256)))
    return file.getvalue()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


ZTXT = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000), 9))
IMAGE = [
    Kind("cut", ".jpg", "truncated", lambda rng: cut(picture(rng, "JPEG"))),
    Kind("cut", ".png", "truncated", lambda rng: cut(picture(rng, "PNG"))),
    Kind("cut", ".webp", "truncated", lambda rng: cut(picture(rng, "WEBP"))),
    Kind("cut", ".bmp", "truncated", lambda rng: cut(picture(rng, "BMP"))),
    Kind("cut", ".gif", "truncated", lambda rng: cut(picture(rng, "GIF"))),
    Kind("hole", ".png", "damaged", lambda rng: patched(picture(rng, "PNG"), 3000, bytes(99))),
    Kind("bomb", ".png", "too large", lambda rng: png(60_000, 60_000, bytes(99))),
    Kind("large", ".png", "too large", lambda rng: png(10_000, 10_000, bytes(99))),
    Kind("text-bomb", ".png", "too large", lambda rng: png(4, 4, bytes(20), ZTXT)),
    Kind("no-bytes", ".jpg", "empty", lambda rng: b""),
    Kind("no-pixels", ".png", "empty", lambda rng: png(0, 5, b"")),
    Kind("page", ".jpg", "wrong type", lambda rng: HTML),
    Kind("words", ".png", "wrong type", lambda rng: b"not a picture at all"),
    Kind("pointer", ".jpg", "wrong type", lambda rng: LFS),
    Kind("document", ".jpeg", "wrong type", lambda rng: b"%PDF-1.7\n" + rng.bytes(300)),
    Kind("sound", ".png", "wrong type", lambda rng: sound(noise(rng), "FLAC")),
    Kind("floats", ".tiff", "pixel format", floats),
    Kind("tall", ".png", "too large", lambda rng: png(1, 89_000_000, bytes(99))),
    Kind("random", ".jpg", "unreadable", lambda rng: b"\x00" + rng.bytes(3000)),
    Kind("dangling", ".png", "missing", lambda rng: b""),
    Kind("good", ".jpg", None, lambda rng: picture(rng, "JPEG")),
    Kind("good-png-named", ".jpg", None, lambda rng: picture(rng, "PNG")),
    Kind("good-1-bit", ".png", None, lambda rng: picture(rng, "PNG", "1")),
    Kind("good-cmyk", ".jpg", None, lambda rng: picture(rng, "JPEG", "CMYK")),
    Kind("good-palette-alpha", ".png", None, half_clear),
    Kind("good-alpha", ".png", None, lambda rng: picture(rng, "PNG", "LA")),
    Kind("good-16-bit", ".png", None, sixteen_bits),
    Kind("good-lab", ".tiff", None, lab),
    Kind("good-turned", ".jpg", None, turned),
]  # fmt: skip


# ---- text: a file is a document ----


def words(rng: np.random.Generator, count: int = 60) -> bytes:
    return " ".join(f"wörd{number}" for number in rng.integers(0, 50, count)).encode()


def spliced(rng: np.random.Generator, bad: bytes) -> bytes:
    return words(rng) + b" " + bad + b" " + words(rng)


TEXT = [
    Kind("stray-byte", ".txt", "encoding", lambda rng: spliced(rng, b"\xff")),
    Kind("lone-continuation", ".txt", "encoding", lambda rng: spliced(rng, b"\x80")),
    Kind("overlong", ".txt", "encoding", lambda rng: spliced(rng, b"\xc0\xaf")),
    Kind("surrogate", ".txt", "encoding", lambda rng: spliced(rng, b"\xed\xa0\x80")),
    Kind("latin-1", ".txt", "encoding", lambda rng: words(rng).decode().encode("latin-1")),
    Kind("windows-1252", ".txt", "encoding", lambda rng: spliced(rng, b"\x93quoted\x94")),
    Kind("utf-16-marked", ".txt", "encoding", lambda rng: words(rng).decode().encode("utf-16")),
    Kind("cut-in-a-character", ".txt", "encoding", lambda rng: words(rng) + b"\xc3"),
    Kind("utf-16", ".txt", "binary", lambda rng: b"plain ascii".decode().encode("utf-16-le")),
    Kind("nul", ".txt", "binary", lambda rng: spliced(rng, b"\0\0\0")),
    Kind("picture", ".txt", "wrong type", lambda rng: picture(rng, "JPEG")),
    Kind("document", ".txt", "wrong type", lambda rng: b"%PDF-1.7\n" + rng.bytes(300)),
    Kind("compressed", ".txt", "wrong type", lambda rng: gzip.compress(words(rng))),
    Kind("pointer", ".txt", "wrong type", lambda rng: LFS),
    Kind("no-bytes", ".txt", "empty", lambda rng: b""),
    Kind("enormous-line", ".txt", "too large", lambda rng: b"x" * 60_000),  # with LARGEST made small
    Kind("cut", ".txt.gz", "truncated", lambda rng: gzip.compress(words(rng, 3000))[:900]),
    Kind("not-compressed", ".txt.gz", "damaged", lambda rng: words(rng)),
    Kind("dangling", ".txt", "missing", lambda rng: b""),
    Kind("good", ".txt", None, words),
    Kind("good-marked", ".txt", None, lambda rng: b"\xef\xbb\xbf" + words(rng)),
    Kind("good-dos", ".txt", None, lambda rng: words(rng) + b"\r\n" + words(rng)),
    Kind("good", ".txt.gz", None, lambda rng: gzip.compress(words(rng))),
]  # fmt: skip
KINDS = {"audio": AUDIO, "image": IMAGE, "text": TEXT}


def by_problem(problems: dict[str, str | None]) -> Iterator[tuple[str, int]]:
    """(problem, number of files) of what is damaged."""
    for problem in sorted({problem for problem in problems.values() if problem is not None}):
        yield problem, sum(other == problem for other in problems.values())
