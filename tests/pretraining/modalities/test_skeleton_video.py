"""Video with skeletons: films, arrays and lists of images are read alike; what does not belong together is named."""

import io
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from data2vec.modeling import SvData2VecFeatureExtractor
from data2vec.modeling.configuration_streams import StreamsObjectiveConfig
from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.builtin_figures import BONES, MOTIONS, film, moved, skeleton
from data2vec.pretraining.data.examples import PretrainingDataset
from data2vec.pretraining.data.modality import BadExample
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.modalities.skeleton_video import SkeletonVideoData, SkeletonVideoDataArguments
from data2vec.pretraining.modalities.video_files import read_video


CONFIG = SimpleNamespace(
    max_position_embeddings=6, image_size=16, num_persons=2, num_joints=15, num_channels=3, resnet_width=2
)
FRAMES = np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), dtype=np.uint8)
GREY = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in FRAMES]).astype(int)
POINTS = np.random.default_rng(1).uniform(1, 23, (9, 1, 15, 2)).astype(np.float32)


def modality(**fields) -> SkeletonVideoData:
    return SkeletonVideoData(SkeletonVideoDataArguments(sources=[{"path": "unused"}], **fields), CONFIG)


def npy(array: np.ndarray) -> dict:
    file = io.BytesIO()
    np.save(file, array)
    return {"bytes": file.getvalue(), "path": None}


def png(image: np.ndarray) -> dict:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def write_film(path: Path, frames: np.ndarray, codec: str = "ffv1", pixels: str = "bgr0") -> None:
    """Lossless."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_a_film_is_its_frames(tmp_path):
    write_film(tmp_path / "a.mkv", FRAMES)
    for value in (str(tmp_path / "a.mkv"), {"bytes": (tmp_path / "a.mkv").read_bytes(), "path": None}):
        clip = read_video(value, "a", 3)
        assert np.array_equal(clip.frames, FRAMES) and clip.size == (24, 32) and clip.rate == 25
    small = read_video(str(tmp_path / "a.mkv"), "a", 3, (8, 10))
    assert small.frames.shape == (9, 8, 10, 3) and small.size == (24, 32)
    grey = read_video(str(tmp_path / "a.mkv"), "a", 1).frames
    assert grey.shape == (9, 24, 32, 1)
    assert np.abs(grey[..., 0] - GREY).max() <= 2


@pytest.mark.parametrize(
    "value", [npy(FRAMES), [png(frame) for frame in FRAMES], [Image.fromarray(frame) for frame in FRAMES]]
)
def test_arrays_and_images_are_frames_too(value):
    assert np.array_equal(read_video(value, "a", 3).frames, FRAMES)
    grey = read_video(value, "a", 1).frames[..., 0]
    assert np.abs(grey - GREY).max() <= 1


def test_a_folder_of_films_and_skeletons(tmp_path):
    """Each film with the array of its name."""
    for name in ("a", "b"):
        write_film(tmp_path / f"{name}.mkv", FRAMES)
        np.save(tmp_path / f"{name}.npy", POINTS)
    data = modality(flip=0.0)
    rows = load_source(Source(path=str(tmp_path)), data.kind)
    example = PretrainingDataset([data.prepare(rows)], data, seed=7)[0]
    assert example["pixel_values"].shape == (6, 3, 16, 16) and example["keypoint_values"].shape == (6, 2, 15, 2)
    chosen = POINTS[[0, 2, 3, 5, 6, 8], 0] * (16 / 32, 16 / 24)  # pixels of the smaller frames
    assert torch.allclose(example["keypoint_values"][:, 0], torch.from_numpy(chosen).float())
    assert not example["keypoint_values"][:, 1].any()  # nobody else
    assert torch.equal(
        example["pixel_values"], data.processor.video(read_video(rows[0]["video"], "", 3, (16, 16)).frames)
    )
    (tmp_path / "b.npy").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 files of video, first .*b\.mkv.* have no skeleton beside them"):
        load_source(Source(path=str(tmp_path)), data.kind)


def test_rows_of_a_table(tmp_path):
    """Columns are found by their names; frames may be images, and joints numbers."""
    rows = {"frames": [[png(frame) for frame in FRAMES]], "poses": [POINTS.tolist()], "label": [3]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "clips.parquet")
    data = modality(flip=0.0)
    found = load_source(Source(path=str(tmp_path / "clips.parquet")), data.kind)
    example = data.read(found[0], None)
    expected = data.read({"video": npy(FRAMES), "skeleton": npy(POINTS)}, None)
    assert all(torch.equal(example[name], values) for name, values in expected.items())


@pytest.mark.parametrize(
    ("video", "points", "problem", "words"),
    [
        (FRAMES, POINTS[:8], "damaged", "has 9 frames, its skeleton .* has 8"),
        (FRAMES, POINTS[:, :, :14], "damaged", r"\(9, 1, 14, 2\): with model.num_joints = 15"),
        (FRAMES, np.where(POINTS > 20, np.nan, POINTS), "not finite", "NaN or infinite"),
        (FRAMES[:0], POINTS[:0], "empty", "holds no frames"),
        (FRAMES.astype(np.float32), POINTS, "unreadable", "float32, not uint8"),
        (FRAMES[..., :2], POINTS, "unreadable", r"\(9, 24, 32, 2\)"),
    ],
)
def test_what_cannot_be_used_is_named(video, points, problem, words):
    with pytest.raises(BadExample, match=words) as error:
        modality().read({"video": npy(video), "skeleton": npy(points)}, None)
    assert error.value.problem == problem


def test_a_film_that_is_none(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"<html>not found</html>")
    with pytest.raises(BadExample, match="is an HTML page, not a video") as error:
        read_video(str(tmp_path / "a.mp4"), "a.mp4", 3)
    assert error.value.problem == "wrong type"


def test_mirrored_clips_mirror_both():
    row = {"video": npy(FRAMES), "skeleton": npy(POINTS)}
    plain, turned = modality(flip=0.0), modality(flip=1.0)
    rng = np.random.default_rng(0)
    before, after = plain.read(row, rng), turned.read(row, rng)
    assert torch.equal(after["pixel_values"], before["pixel_values"].flip(-1))
    assert torch.allclose(after["keypoint_values"][:, 0, :, 0], 15 - before["keypoint_values"][:, 0, :, 0])
    assert torch.equal(after["keypoint_values"][..., 1], before["keypoint_values"][..., 1])
    assert not after["keypoint_values"][:, 1].any()
    assert torch.equal(turned.read(row, None)["pixel_values"], before["pixel_values"])  # evaluation mirrors nothing


def test_batches_hold_seeds_and_probes_what_they_read():
    data = modality(probe_streams=["video"])
    examples = [
        data.read({"video": npy(FRAMES), "skeleton": npy(POINTS)}, None) | {"epoch": 1, "index": i} for i in (4, 9)
    ]
    objective = StreamsObjectiveConfig.from_dict({"masking": {"method": "random", "prob": 0.5}})
    batch = data.collator(objective, 3)(examples)
    assert set(batch) == {"pixel_values", "keypoint_values", "masked", "stream_seeds"}
    assert batch["masked"].shape == (2, 6) and batch["stream_seeds"].shape == (2,)
    alone = data.collator(objective, 3)(examples[1:])
    assert torch.equal(alone["stream_seeds"][0], batch["stream_seeds"][1])
    assert set(data.collator(None, 3)(examples)) == {"pixel_values"}


def test_the_processor_prepares_as_pretraining_did(tmp_path):
    data = modality()
    data.processor.save_pretrained(tmp_path)
    loaded = SvData2VecFeatureExtractor.from_pretrained(tmp_path)
    example = data.read({"video": npy(FRAMES), "skeleton": npy(POINTS)}, None)
    made = loaded(videos=[FRAMES, FRAMES], keypoints=[POINTS, POINTS[:, 0]])
    assert torch.equal(made["pixel_values"][1], example["pixel_values"])
    assert torch.equal(made["keypoint_values"][1], example["keypoint_values"])
    assert set(loaded(keypoints=POINTS)) == {"keypoint_values"}
    for wrong, words in (
        ({}, "Pass videos"),
        ({"videos": FRAMES[0]}, "a video has the shape"),
        ({"keypoints": POINTS[..., :1]}, "a skeleton"),
    ):
        with pytest.raises(ValueError, match=words):
            loaded(**wrong)


def test_figures_move_as_their_class_says():
    """Joints that a motion does not move stay; the film shows the skeleton where it is."""
    phase = np.linspace(0, 6, 7)
    for motion, still in {"wave": [0, 3, 11], "kick": [0, 5, 10], "squat": [11, 14], "walk": [0, 1, 2]}.items():
        joints = moved(motion, phase)
        assert np.ptp(joints[:, still], axis=0).max() == 0 and np.ptp(joints, axis=0).max() > 0.1
    rng = np.random.default_rng(0)
    points = skeleton(MOTIONS[5], rng)
    frames = film(points, rng).astype(int)
    x, y = points[3, 0, 0].round().astype(int)
    assert points.shape == (16, 1, 15, 2) and frames.shape == (16, 32, 32, 3) and max(map(max, BONES)) == 14
    assert np.abs(np.diff(frames[:, y - 1 : y + 2, x - 1 : x + 2].reshape(16, -1), axis=0)).max() > 0
