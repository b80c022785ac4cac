"""Point clouds: every format is read right, augmented by its key, and named when it cannot be used."""

import importlib
import io
import logging
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import trimesh
from pypcd4 import Encoding, PointCloud
from safetensors.torch import load_file
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from data2vec.modeling import ObjectiveConfig, Point2VecModel
from data2vec.modeling.feature_extraction_point2vec import Point2VecFeatureExtractor
from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.builtin_shapes import CLASSES, SOLIDS, shape
from data2vec.pretraining.data.examples import PretrainingDataset
from data2vec.pretraining.data.modality import BadExample
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.evaluation.raw_features import point_distances, random_pointnet
from data2vec.pretraining.modalities.point_files import POINTS, read_points
from data2vec.pretraining.modalities.points import PointsData, PointsDataArguments, rotation
from data2vec.tests.reference import GOLDEN
from tests.modeling.tiny_point2vec import points_config


CONFIG = SimpleNamespace(num_groups=7, group_size=5)
CLOUD = np.random.default_rng(0).normal(size=(53, 3)).astype(np.float32)


def points_data(**fields) -> PointsData:
    fields = {"sources": [{"path": "unused"}], "num_points": 47, "min_points": 11} | fields
    return PointsData(PointsDataArguments(**fields), CONFIG)


def examples_of(path: Path, modality: PointsData, **how) -> PretrainingDataset:
    rows = load_source(Source(path=str(path)), modality.kind)
    return PretrainingDataset([modality.prepare(rows)], modality, seed=7, **how)


def lines(separator: str, more: str = "", first: str = "") -> bytes:
    return (first + "\n".join(separator.join(map(repr, row.tolist())) + more for row in CLOUD)).encode()


def saved(save) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def pcd(encoding: str) -> bytes:
    return saved(lambda file: PointCloud.from_xyz_points(CLOUD).save(file, encoding=Encoding(encoding)))


def exported(kind: str) -> bytes:
    found = trimesh.PointCloud(CLOUD).export(file_type=kind)
    return found if isinstance(found, bytes) else found.encode()


OFF = lines(" ", first=f"OFF\n{len(CLOUD)} 0 0\n")
FILES = {
    "a.npy": saved(lambda file: np.save(file, CLOUD)),
    "float64.npy": saved(lambda file: np.save(file, CLOUD.astype(np.float64))),
    "with_normals.npy": saved(lambda file: np.save(file, np.hstack((CLOUD, CLOUD)))),
    "one.npz": saved(lambda file: np.savez(file, anything=CLOUD)),
    "several.npz": saved(lambda file: np.savez_compressed(file, labels=np.zeros(3), points=CLOUD)),
    "a.xyz": lines(" "),
    "counted.xyz": lines("\t", first="53\n"),
    "commas.txt": lines(",", more=",0.5,1"),
    "header.txt": lines("; ", first="x; y; z\n"),
    "comment.txt": lines(" ", first="# from a scanner\n"),
    "a.ply": exported("ply"),
    "ascii.ply": trimesh.exchange.ply.export_ply(trimesh.PointCloud(CLOUD), encoding="ascii"),
    "a.off": OFF,
    "glued.off": OFF.replace(b"OFF\n", b"OFF", 1),  # as some files of ModelNet are
    "a.obj": b"\n".join(b"v " + line for line in lines(" ").split(b"\n")),
    "ascii.pcd": pcd("ascii"),
    "binary.pcd": pcd("binary"),
    "compressed.pcd": pcd("binary_compressed"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_its_points(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    (row,) = load_source(Source(path=str(tmp_path)), POINTS)
    table = read_points(row["points"], name, 3, 100, np.random.default_rng(0))
    np.testing.assert_allclose(table[:, :3], CLOUD, rtol=1e-6)
    packed = read_points({"bytes": FILES[name], "path": name}, name, 3, 100, np.random.default_rng(0))
    assert np.array_equal(packed, table)


@pytest.mark.parametrize("kind", ["off", "ply", "stl", "obj"])
def test_meshes_are_sampled_evenly_on_their_surface_by_a_seed(tmp_path, kind):
    mesh = trimesh.creation.icosphere(subdivisions=3)
    mesh.apply_scale(2.0)
    mesh.export(tmp_path / f"a.{kind}")
    first, again, other = (
        read_points(str(tmp_path / f"a.{kind}"), "a", 3, 4001, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (4001, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(np.linalg.norm(first, axis=1) - 2).max() < 0.03
    assert kstest(first[:, 2], "uniform", args=(-2, 4)).pvalue > 1e-3  # Archimedes: heights on a sphere are uniform


def test_an_obj_names_no_other_file(tmp_path):
    (tmp_path / "secret.mtl").write_text("newmtl a\nmap_Kd secret.png\n")
    (tmp_path / "a.obj").write_bytes(b"mtllib secret.mtl\nusemtl a\n" + FILES["a.obj"])
    table = read_points(str(tmp_path / "a.obj"), "a", 3, 100, np.random.default_rng(0))
    assert table.shape == CLOUD.shape


@pytest.mark.parametrize("columns", ["nested", "flat", "numpy"])
def test_columns_of_numbers_are_read(columns):
    wide = np.hstack((CLOUD, np.arange(159, dtype=np.float32).reshape(53, 3)))
    value = {"nested": wide.tolist(), "flat": wide.flatten().tolist(), "numpy": wide}[columns]
    modality = points_data(point_columns=6, num_points=53)
    example = modality.read({"points": value}, None)
    expected = CLOUD - CLOUD.mean(0)
    expected = expected / np.linalg.norm(expected, axis=1).max()
    torch.testing.assert_close(example["point_values"], torch.from_numpy(expected))


BAD = {
    "nothing.npy": (b"", "empty"),
    "no_points.npy": (saved(lambda file: np.save(file, CLOUD[:0])), "empty"),
    "picture.ply": (b"\xff\xd8\xff\xe0" + bytes(600), "wrong type"),
    "page.txt": (b"<!doctype html><p>404", "wrong type"),
    "pickle.npy": (saved(lambda file: np.save(file, np.array([{}]), allow_pickle=True)), "unreadable"),
    "cut.npy": (FILES["a.npy"][:300], "unreadable"),
    "cut.ply": (FILES["a.ply"][:-60], "unreadable"),
    "lies.npy": (FILES["a.npy"].replace(b"(53, 3)", b"(10**9,)"), "unreadable"),
    "flat.npy": (saved(lambda file: np.save(file, CLOUD.flatten())), "damaged"),
    "plane.npy": (saved(lambda file: np.save(file, CLOUD[:, :2])), "damaged"),
    "nan.npy": (saved(lambda file: np.save(file, np.where(CLOUD > 1, np.nan, CLOUD))), "not finite"),
    "infinite.txt": (lines(" ") + b"\ninf 0 0", "not finite"),
    "one.txt": (b"1 2 3", "too few points"),
    "same.npy": (saved(lambda file: np.save(file, np.ones((99, 3)))), "too few points"),
    "unnamed.npz": (saved(lambda file: np.savez(file, a=CLOUD, b=CLOUD)), "unreadable"),
}


def test_what_cannot_be_used_is_left_out_counted_and_named(tmp_path, caplog):
    for name, (content, _) in BAD.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "gone.npy").symlink_to(tmp_path / "nowhere.npy")
    for number in range(len(BAD) + 2):
        (tmp_path / f"good{number}.npy").write_bytes(FILES["a.npy"])
    dataset = examples_of(tmp_path, points_data(), max_bad_share=1.0)
    with caplog.at_level(logging.WARNING):
        read = [dataset[(0, index)] for index in range(len(dataset))]
    assert all(example["point_values"].shape == (47, 3) for example in read)
    expected = {problem: 0 for _, problem in BAD.values()}
    for _, problem in BAD.values():
        expected[problem] += 1
    assert dataset.ledger.counts() == expected | {"missing": 1}
    for name in BAD:
        assert name in caplog.text


def test_a_cell_that_is_no_cloud_is_named():
    for value in (None, ["a", "b", "c"], 4.0, [1.0] * 7):
        with pytest.raises(BadExample, match="without a file name"):
            points_data().read({"points": value}, None)


def test_a_pcd_loses_pixels_without_a_return():
    holes = CLOUD.copy()
    holes[::2, 1] = np.nan
    content = saved(lambda file: PointCloud.from_xyz_points(holes).save(file))
    table = read_points(content, "a.pcd", 3, 100, np.random.default_rng(0))
    np.testing.assert_array_equal(table, CLOUD[1::2])


def test_a_missing_reader_says_what_to_install(tmp_path, monkeypatch):
    def refuse(name, *rest):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(
        ValueError, match=r"a.ply needs the package trimesh.*pip install 'data2vec\[points\]'"
    ) as error:
        read_points({"bytes": FILES["a.ply"], "path": "a.ply"}, "a.ply", 3, 9, np.random.default_rng(0))
    assert not isinstance(error.value, BadExample)  # which would only be counted


def test_points_that_are_there_twice_count_once():
    twice = np.repeat(CLOUD, 2, axis=0)
    modality = points_data(num_points=53)
    assert torch.equal(
        modality.read({"points": twice}, None)["point_values"], modality.read({"points": CLOUD}, None)["point_values"]
    )


def test_augmentation_is_the_originals_with_its_draws():
    table = load_file(GOLDEN / "point2vec_misc" / "misc.safetensors")
    processor = Point2VecFeatureExtractor(num_points=96)
    for cloud in range(2):
        scaled = table["aug.in"][cloud] * (0.8 + 0.4 * table["aug.draw.scale"])
        torch.testing.assert_close(scaled, table["aug.scale"][cloud])
        normal = processor.normalize(table["aug.scale"][cloud])
        torch.testing.assert_close(normal, table["aug.unit_sphere"][cloud], rtol=1e-5, atol=1e-6)
        draw = SimpleNamespace(uniform=lambda low, high: low + (high - low) * float(table["aug.draw.rotate"]))
        turn = torch.from_numpy(rotation("vertical", "y", draw)).float()
        torch.testing.assert_close(normal @ turn.T, table["aug.rotate_y"][cloud], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "vertical", "any"])
@pytest.mark.parametrize("vertical", ["x", "y", "z"])
def test_rotations_turn_about_what_they_say(kind, vertical):
    rng = np.random.default_rng(3)
    turns = np.stack([rotation(kind, vertical, rng) for _ in range(2000)])
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    up = np.eye(3)["xyz".index(vertical)]
    if kind == "any":
        assert kstest(turns[:, 0, 0], "uniform", args=(-1, 2)).pvalue > 1e-3
    else:
        np.testing.assert_allclose(turns @ up, np.broadcast_to(up, (2000, 3)), atol=1e-12)
        angles = Rotation.from_matrix(turns).as_rotvec() @ up
        spread = kstest(angles, "uniform", args=(-np.pi, 2 * np.pi)).pvalue
        assert spread > 1e-3 if kind == "vertical" else not angles.any()


def test_examples_follow_from_the_key_and_each_cloud_is_drawn_alone(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", CLOUD)
    modality = points_data()
    dataset, again = examples_of(tmp_path, modality), examples_of(tmp_path, points_data())
    for key in ((0, 0), (0, 1), (1, 0)):
        assert torch.equal(dataset[key]["point_values"], again[key]["point_values"])
        assert dataset[key]["start"] == again[key]["start"]
    assert not torch.equal(dataset[(0, 0)]["point_values"], dataset[(0, 1)]["point_values"])
    assert not torch.equal(dataset[(0, 0)]["point_values"], dataset[(1, 0)]["point_values"])
    assert len({int(dataset[(epoch, 0)]["start"]) for epoch in range(20)}) > 10
    plain = examples_of(tmp_path, modality, augment=False)
    assert torch.equal(plain[(0, 0)]["point_values"], plain[(1, 1)]["point_values"])
    assert "start" not in plain[0]


def test_a_batch_is_padded_and_masked_by_groups():
    objective = ObjectiveConfig.from_dict({"masking": {"method": "random", "prob": 0.6}})
    modality = points_data()
    examples = [
        {**modality.read({"points": CLOUD[:size]}, np.random.default_rng(size)), "epoch": 0, "index": size}
        for size in (47, 29, 37)
    ]
    batch = modality.collator(objective, 5)(examples)
    assert batch["point_values"].shape == (3, 47, 3)
    assert batch["attention_mask"].sum(1).tolist() == [47, 29, 37]
    assert not batch["point_values"][1, 29:].any()
    assert batch["start"].tolist() == [int(example["start"]) for example in examples]
    assert batch["masked"].shape == (3, 7)
    assert batch["masked"].sum(1).tolist() == [5, 5, 5]
    assert len({tuple(row) for row in batch["masked"].tolist()}) == 3  # the original hides the same in all rows
    assert batch["mask_counts"] == (15, 2, 2)


def test_farthest_sampling_covers_better_than_random_and_keeps_small_clouds(tmp_path):
    cloud = torch.from_numpy(np.random.default_rng(1).uniform(size=(1009, 3)).astype(np.float32))
    far, random = (Point2VecFeatureExtractor(num_points=31, sampling=sampling) for sampling in ("farthest", "random"))

    def gap(processor, seed):
        kept = processor.sample(cloud, seed)
        assert len(set(kept.tolist())) == 31
        return cKDTree(cloud[kept].numpy()).query(cloud.numpy())[0].max()

    assert max(gap(far, seed) for seed in range(5)) < min(gap(random, seed) for seed in range(5))
    assert far.sample(cloud[:401])[0] == 0
    assert torch.equal(far.sample(cloud, 3), far.sample(cloud, 3))
    assert far.sample(cloud[:17]).tolist() == list(range(17))
    far.save_pretrained(tmp_path)
    assert Point2VecFeatureExtractor.from_pretrained(tmp_path).to_dict() == far.to_dict()


def test_the_processor_pads_and_refuses():
    processor = Point2VecFeatureExtractor(num_points=23)
    batch = processor([CLOUD, CLOUD[:17].tolist()])
    assert batch["point_values"].shape == (2, 23, 3)
    assert batch["attention_mask"].sum(1).tolist() == [23, 17]
    single = processor(CLOUD.tolist())
    assert torch.equal(single["point_values"], processor(torch.from_numpy(CLOUD))["point_values"])
    assert "attention_mask" not in single
    torch.testing.assert_close(single["point_values"].norm(dim=2).max(), torch.tensor(1.0))
    arrays = processor([CLOUD, CLOUD[:17]], return_tensors="np")
    assert all(type(arrays[name]) is np.ndarray for name in ("point_values", "attention_mask"))
    for wrong, message in ((CLOUD[:, :2], "shape"), (CLOUD[:0], "shape"), (CLOUD * np.nan, "NaN"), ([], "shape")):
        with pytest.raises(ValueError, match=message):
            processor(wrong)
    for fields in ({"num_points": 0}, {"sampling": "grid"}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            Point2VecFeatureExtractor(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_points": 0}, "num_points"),
        ({"min_points": 48}, "min_points"),
        ({"min_points": 6}, r"min_points = 6.*num_groups = 7"),
        ({"scale": [1.2, 0.8]}, "scale"),
        ({"point_columns": 2}, "point_columns"),
        ({"sampling": "grid"}, "sampling"),
        ({"rotate": "y"}, "rotate"),
    ],
)
def test_wrong_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        points_data(**fields)


def test_parquet_columns_and_labels(tmp_path):
    rows = {"points": [CLOUD.flatten().tolist()] * 3, "label": ["a", "b", "a"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    dataset = load_source(Source(path=str(tmp_path / "a.parquet")), POINTS, label_column="label")
    assert dataset.column_names == ["points", "label"]
    np.testing.assert_array_equal(np.reshape(dataset[1]["points"], (-1, 3)), CLOUD)


def test_paths_in_tables_stay_below_their_folder(tmp_path):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "outside.npy", CLOUD)
    datasets.Dataset.from_dict({"points": ["../outside.npy"]}).to_parquet(tmp_path / "data" / "a.parquet")
    with pytest.raises(ValueError, match="outside of"):
        load_source(Source(path=str(tmp_path / "data" / "a.parquet")), POINTS)


def test_builtin_shapes_are_what_their_names_say():
    rng = np.random.default_rng(0)
    for name, solid in SOLIDS.items():
        points = solid(4001, rng)
        assert np.ptp(points[:, 2]) == pytest.approx(1, abs=0.05), name
        tree = cKDTree(points[:2000])
        assert np.median(tree.query(points[2000:])[0]) < 0.05  # on a surface, not in a volume
    radii = np.linalg.norm(SOLIDS["ball"](101, rng), axis=1)
    np.testing.assert_allclose(radii, 0.5)
    assert len(CLASSES) == len(set(CLASSES)) == 12
    cloud = shape(5, np.random.default_rng(1))
    assert cloud.shape == (512, 3)
    assert cloud.dtype == np.float32
    assert np.array_equal(cloud, shape(5, np.random.default_rng(1)))


def test_builtin_shapes_are_a_source(tmp_path, monkeypatch):
    monkeypatch.setattr("data2vec.pretraining.data.builtin_shapes.SIZES", {"train": 24, "validation": 12, "test": 13})
    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path))
    source = Source(path="builtin:shapes", split="test")
    dataset = load_source(source, POINTS, label_column="label")
    assert len(dataset) == 13
    assert dataset.features["label"].names[0] == "ball between box and cone"
    assert dataset[12]["label"] == 0
    assert points_data(num_points=512).read(dataset[0], None)["point_values"].shape == (512, 3)


def test_probes_read_largest_values_and_means():
    states = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    real = torch.ones(3, 7, dtype=torch.bool)
    real[1, 4:] = False
    pooled = PointsData.pool(states, real)
    assert pooled.shape == (3, 5 * PointsData.pooled_parts)
    torch.testing.assert_close(pooled[1], torch.cat((states[1, :4].amax(0), states[1, :4].mean(0))))


def test_raw_features_tell_shapes_apart_and_do_not_turn():
    rng = np.random.default_rng(0)
    clouds = [SOLIDS[solid](301, rng) * 2 for solid in ("ball", "ring") for _ in range(5)]
    turned = [cloud @ Rotation.random(rng=1).as_matrix() for cloud in clouds]
    first, second = ([{"point_values": torch.from_numpy(c).float()} for c in of] for of in (clouds, turned))
    here, there = point_distances(first, second)
    np.testing.assert_allclose(here.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(here, there, atol=0.01)
    assert np.abs(here[:5].mean(0) - here[5:].mean(0)).max() > 0.01
    here, there = random_pointnet(first, first)
    assert here.shape == (10, 512)
    assert np.array_equal(here, there)
    shuffled = [{"point_values": e["point_values"].flip(0)} for e in first]
    np.testing.assert_allclose(random_pointnet(shuffled, first)[0], here, rtol=1e-5, atol=1e-6)


def test_neighbours_are_hidden_among_the_centres_that_the_encoder_chooses():
    objective = ObjectiveConfig.from_dict({"masking": {"method": "neighbours", "prob": 0.5}})
    modality = points_data()
    collator = modality.collator(objective, 5)
    examples = [
        {**modality.read({"points": CLOUD[:size]}, np.random.default_rng(size)), "epoch": 0, "index": size}
        for size in (47, 29, 37)
    ]
    batch = collator(examples)
    encoder = Point2VecModel(points_config(num_groups=7, group_size=5))
    tokens = encoder.embed((batch["point_values"], batch["attention_mask"], batch["start"]))
    seeds = collator.mask_seeds(objective, examples)
    assert torch.equal(batch["masked"], objective.draw_masks((7,), seeds, coordinates=tokens.coordinates))
    assert batch["masked"].sum(1).tolist() == [3, 3, 3]
    for row, example in enumerate(examples):  # whatever else is in the batch
        assert torch.equal(collator([example])["masked"][0], batch["masked"][row])
