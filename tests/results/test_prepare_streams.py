"""The made-up streams of docs/results: figures that are where the joints are, mouths that follow the sound."""

import io
from pathlib import Path

import datasets
import numpy as np
import prepare
import soundfile
from prepare_streams import fitted, mouth, movement


RATE = 8000


def tone(frequency: float, amplitude: float, frames: int) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(320 * frames) / RATE)


def test_a_mouth_opens_with_the_energy_and_widens_with_the_pitch():
    wave = np.concatenate([tone(300, 0.5, 4), tone(3000, 0.5, 4), tone(300, 0.016, 3), np.zeros(320 * 3)])
    opened, wide = movement(wave, RATE)
    assert opened.shape == wide.shape == (14,)
    np.testing.assert_allclose(opened, [1] * 8 + [0] * 6, atol=0.02)  # 0.016 is 30 dB below 0.5
    np.testing.assert_allclose(wide[:8], [0] * 4 + [1] * 4, atol=0.02)


def test_what_is_open_and_wide_is_drawn_so():
    def dark(opened: float, wide: float) -> tuple[int, int]:
        """Columns and rows of one frame with what is inside of a mouth."""
        (frame,) = mouth(np.array([opened]), np.array([wide]), np.random.default_rng(0))
        inside = frame < 90  # the lips are above
        return int(inside.any(0).sum()), int(inside.any(1).sum())

    closed, opened, wide = dark(0, 0.5), dark(1, 0.5), dark(1, 1)
    assert opened[1] > closed[1] + 3 and wide[0] > opened[0] and wide[1] == opened[1]


def test_figures_fill_the_frame_and_are_drawn_at_their_joints(tmp_path: Path):
    rng = np.random.default_rng(0)
    names = ["jump", "sit"]
    features = datasets.Features(
        {"joints": datasets.List(datasets.Value("float32")), "label": datasets.ClassLabel(names=names)}
    )
    for split, count in (("train", 20), ("test", 4)):
        rows = [{"joints": rng.normal(size=5 * 15 * 2).tolist(), "label": i % 2} for i in range(count)]
        folder = tmp_path / "skeleton_jhmdb_split1" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}-0.parquet")
    found = prepare.stick_figures(tmp_path, tmp_path / "out")
    train = datasets.Dataset.from_parquet(found.source)
    assert len(train) == 16 and set(train["label"]) == set(names)
    film, points = (np.load(io.BytesIO(train[0][name]["bytes"])) for name in ("video", "skeleton"))
    assert film.shape == (5, 32, 32, 3) and points.shape == (5, 1, 15, 2)
    assert points.min() > 1 and points.max() < 31 and np.ptp(points) > 25
    strokes = np.array([film[2, int(y), int(x)] for x, y in points[2, 0]]).astype(int)  # (joints, 3)
    assert (np.abs(strokes - np.median(strokes, 0)).max(1) == 0).mean() > 0.7  # of one colour, the background is not
    assert prepare.stick_figures(tmp_path, tmp_path / "out") == found


def test_clips_get_a_mouth_of_their_length(tmp_path: Path):
    sound = io.BytesIO()
    soundfile.write(sound, tone(300, 0.5, 7)[:-100], RATE, format="wav")
    row = {"audio": {"bytes": sound.getvalue()}}
    film = np.load(io.BytesIO(prepare.with_mouth(row, 3)["video"]["bytes"]))
    assert film.shape == (7, 16, 16) and film.dtype == np.uint8
    same = np.load(io.BytesIO(prepare.with_mouth(row, 3)["video"]["bytes"]))
    np.testing.assert_array_equal(film, same)


def test_joints_keep_their_shape():
    points = np.random.default_rng(1).normal(size=(4, 1, 15, 2))
    placed = fitted(points)
    ratio = np.ptp(placed[..., 0]) / np.ptp(placed[..., 1])
    np.testing.assert_allclose(ratio, np.ptp(points[..., 0]) / np.ptp(points[..., 1]), rtol=1e-4)
