"""run_probe.py in all modalities, both families and for an encoder of `transformers`, on data with a known answer."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import ShuffleSplit
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, ViTConfig, ViTImageProcessorPil, ViTModel

from data2vec.finetune.arguments import resolve
from data2vec.finetune.help_text import RECIPES, recipes_of
from data2vec.finetune.probe.arguments import Probe
from data2vec.finetune.probe.features import FeatureFolder
from data2vec.finetune.probe.layers import best_layer
from data2vec.finetune.run_probe import main
from data2vec.modeling import Data2VecAudioForPreTraining
from data2vec.pretraining.evaluation.probe import knn_accuracy
from data2vec.pretraining.recipe import parse_yaml
from tests.finetune.encoders import CONFIGS, WORDS, encoder_folder, processor
from tests.finetune.sounds import tone_folder, tone_table


EMODB = Path(__file__).parents[3] / "shared" / "data" / "emodb_4class"


def images(folder, each, seed):
    """Bright and dark noise, a sub-folder each."""
    rng = np.random.default_rng(seed)
    for label, level in (("bright", 200), ("dark", 60)):
        (folder / label).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(rng.normal(level, 40, size=(16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:02d}.png")
    return {"path": str(folder)}


def brightness(folder, count, seed):
    """A csv of noise images whose mean is in `level`, the first half from one camera."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = ["image,level,camera,number,constant"]
    for number in range(count):
        level = round(rng.uniform(60, 200), 2)
        pixels = np.clip(rng.normal(level, 60, size=(16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        lines.append(f"{number:02d}.png,{level},{'a' if number < count // 2 else 'b'},{number % 7},2.5")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"path": str(folder / "rows.csv"), "label_column": "level"}


def sounds(folder, each, seed):
    return {"path": str(tone_folder(folder, each, seed))}


def texts(folder, each, seed):
    """Rows of words, half of them with `good`, half with `bad`."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    rows = [
        {"text": " ".join([*rng.choice(WORDS[:18], size=rng.integers(2, 7)), word]), "label": word}
        for word in ("good", "bad")
        for _ in range(each)
    ]
    lines = [json.dumps(rows[i]) for i in rng.permutation(len(rows))]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"path": str(folder / "rows.jsonl")}


DATA = {"audio": sounds, "vision": images, "text": texts, "spectrogram": sounds}


def recipe(folder, encoder, data, **task):
    sections = {
        "model": {"model_name_or_path": str(encoder)},
        "data": data,
        "task": {"labels_per_class": [1, 3, 50], "neighbours": 3, "draws": 2, **task},
        "training": {"output_dir": str(folder / "run"), "use_cpu": True, "report_to": "none"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    return str(folder / "recipe.yaml")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {
        modality: {"train": make(folder / f"{modality}-train", 15, 0), "test": make(folder / f"{modality}-test", 6, 1)}
        for modality, make in DATA.items()
    }


@pytest.mark.parametrize(
    ("modality", "family"),
    [
        pytest.param(*pair, marks=pytest.mark.slow if pair in (("vision", "v1"), ("text", "v1")) else [])
        for pair in CONFIGS
        if pair[0] in DATA
    ],
)
def test_what_each_layer_knows(tmp_path, splits, modality, family):
    encoder = encoder_folder(tmp_path / "encoder", modality, family)
    path = recipe(tmp_path, encoder, splits[modality], untrained=2)
    assert main([path]) == 0
    found = json.loads((tmp_path / "run/results.json").read_text())
    config = AutoModel.from_pretrained(encoder).config
    blocks = config.num_hidden_layers + getattr(config, "num_prenet_layers", 0)
    for name, networks in (("pretrained", 1), ("untrained", 2)):
        source = found["probed"][name]
        assert source["networks"] == networks
        assert list(source["layers"]) == [f"layer_{i}" for i in range(blocks + 1)]
        assert all(0 <= score <= 1 for layer in source["layers"].values() for score in layer.values())
        assert source["best"] == best_layer(source["layers"])
        curve = source["few_labels"][source["best"]]
        assert len(curve["3"]["accuracies"]) == 2 * networks
        assert "of class '" in curve["50"]["not_possible"] and "there are 12" in curve["50"]["not_possible"]
    raw = [source for source in found["probed"].values() if "raw" in source["layers"]]
    assert raw and all(source["layers"]["raw"]["linear"] > 0.9 for source in raw), "these classes are easy"
    assert found["majority"] == 0.5
    # two classes that a first layer tells apart: brightness, a pitch, a word
    assert max(layer["linear"] for layer in found["probed"]["pretrained"]["layers"].values()) >= 0.75
    report = (tmp_path / "run/report.md").read_text()
    assert "| layer 0 |" in report and "layers.png" in report and "there are 12 training examples" in report
    assert (tmp_path / "run/layers.png").stat().st_size > 5000 and (tmp_path / "run/few_labels.png").is_file()


def test_every_speaker_is_left_out_once(tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", "audio", "v2")
    rows = [{"label": i % 2, "speaker": speaker} for speaker in ("ann", "bo", "cy") for i in range(12)]
    rows += [{"label": 0, "speaker": "di"}] * 3  # who says one word only
    train = {"path": str(tone_table(tmp_path / "data", {"train": rows}))}
    path = recipe(tmp_path, encoder, {"train": train}, probes=["knn", "mlp"], layer="last", untrained=0)
    assert main([path]) == 2, "neither a test set nor groups"
    assert main([path, "--group_column", "speaker"]) == 0
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert found["groups"] == {"ann": 12, "bo": 12, "cy": 12, "di": 3}
    assert found["examples"] == {"train": 39} and found["majority"] == pytest.approx(21 / 39)
    scores = found["probed"]["pretrained"]["layers"]["last"]
    assert set(scores) == {"knn", "mlp", "mlp_unweighted_accuracy", "mlp_weighted_f1", "validation"}
    assert all(found["probed"][raw]["layers"]["raw"]["mlp"] > 0.9 for raw in found["probed"] if "mel" in raw)

    # k-NN by hand, on the files: the mean over speakers of a classifier that has not heard them
    folder = tmp_path / "run/features/pretrained/train"
    table = FeatureFolder(folder, "parquet", json.loads((folder / "manifest.json").read_text())).read(0)
    assert all(frames.ndim == 2 for frames in table.layers["last"])
    x, y = np.stack([frames.mean(0) for frames in table.layers["last"]]), table.labels
    speakers = np.array([row["speaker"] for row in rows])
    by_hand = []
    for speaker in np.unique(speakers):
        test = speakers == speaker
        mean, std = x[~test].mean(0), x[~test].std(0)
        by_hand.append(knn_accuracy((x[~test] - mean) / std, y[~test], (x[test] - mean) / std, y[test], 3))
    assert scores["knn"] == pytest.approx(np.mean(by_hand))
    report = (tmp_path / "run/report.md").read_text()
    assert "unweighted accuracy" in report and "4 groups (ann, bo, cy, di)" in report


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--group_column", "singer"],
            "the columns of data.train are audio, label, speaker, room",
        ),
        (["--group_column", "speaker"], "= 'speaker' is invalid: all rows of data.train are of one group, 'ann'"),
        (["--group_column", "room"], "= 'room' is invalid: row 0 of data.train has no value there"),
        (
            ["--group_column", "speaker", "--test", "{path: nowhere}"],
            "leave it out: with data.group_column",
        ),
        (
            ["--group_column", "speaker", "--data.train", "{path: TONES}"],
            "files in folders need a table",
        ),
    ],
)
def test_group_columns_that_cannot_be_used(tmp_path, splits, capsys, overrides, message):
    encoder = encoder_folder(tmp_path / "encoder", "audio", "v1")
    rows = [{"label": i % 2, "speaker": "ann", "room": "a" if i else None} for i in range(12)]
    data = {"train": {"path": str(tone_table(tmp_path / "data", {"train": rows}))}}
    overrides = [word.replace("TONES", splits["audio"]["train"]["path"]) for word in overrides]
    assert main([recipe(tmp_path, encoder, data, probes=["mlp"]), *overrides]) == 2
    assert message in capsys.readouterr().err


def read_features(folder):
    """Pooled features by layer, and labels, of a split in one part."""
    made_from = json.loads((folder / "manifest.json").read_text())
    part = FeatureFolder(folder, made_from["format"], made_from).read(0)
    layers = {
        layer: np.stack([row if row.ndim == 1 else row.mean(0) for row in rows]) for layer, rows in part.layers.items()
    }
    return layers, part.labels


def ridge_by_hand(x, y, test_x, fit, held_out):
    """Predictions of scikit-learn's ridge regression, in fp64, at the best penalty on `held_out`."""

    def fitted(chosen, alpha):
        return make_pipeline(StandardScaler(), Ridge(alpha)).fit(x[chosen].astype(np.float64), y[chosen])

    best = max((1, 10, 100, 1000, 10000), key=lambda alpha: fitted(fit, alpha).score(x[held_out], y[held_out]))
    return fitted(np.arange(len(x)), best).predict(test_x)


@pytest.mark.parametrize("groups", [False, True])
def test_numbers_are_predicted_from_every_layer(tmp_path, groups):
    """From safetensors with a vector a step, or, with groups, from parquet."""
    encoder = encoder_folder(tmp_path / "encoder", "vision", "v2")
    data = {"train": brightness(tmp_path / "train", 60, 0), "test": brightness(tmp_path / "test", 25, 1)}
    how = ["--per_step", "true", "--task.format", "safetensors"]
    if groups:
        how = ["--test", "null", "--group_column", "camera"]
    path = recipe(tmp_path, encoder, data)
    assert main([path, *how]) == 0
    run = tmp_path / "run"
    found = json.loads((run / "results.json").read_text())
    assert found["metric"] == "r2" and found["classes"] == [] and "majority" not in found
    for source in found["probed"].values():
        assert "few_labels" not in source
        kinds = {"knn", "linear"}
        extra = {f"{kind}_{name}" for kind in kinds for name in ("pearson", "spearman")}
        assert all(set(scores) == {*kinds, *extra, "validation"} for scores in source["layers"].values())
    assert found["probed"]["pixels"]["layers"]["raw"]["linear"] > 0.8, "a mean of pixels is linear in them"
    layers, y = read_features(run / "features/pretrained/train")
    assert y.dtype == np.float64 and list(layers) == [f"layer_{i}" for i in range(4)]
    parts = [(np.arange(30, 60), np.arange(30)), (np.arange(30), np.arange(30, 60))]
    if not groups:
        test_layers, test_y = read_features(run / "features/pretrained/test")
        layers = {layer: np.concatenate((x, test_layers[layer])) for layer, x in layers.items()}
        y, parts = np.concatenate((y, test_y)), [(np.arange(60), np.arange(60, 85))]
    tested = np.concatenate([test for _, test in parts])
    for layer, scores in found["probed"]["pretrained"]["layers"].items():
        x, predicted, near = layers[layer], [], []
        for train, test in parts:
            ((fit, held_out),) = ShuffleSplit(1, test_size=0.2, random_state=42).split(train)
            predicted.append(ridge_by_hand(x[train], y[train], x[test], fit, held_out))
            knn = make_pipeline(StandardScaler(), KNeighborsRegressor(3, metric="cosine")).fit(x[train], y[train])
            near.append(knn.predict(x[test]))
        predicted, near = np.concatenate(predicted), np.concatenate(near)
        assert scores["linear"] == pytest.approx(r2_score(y[tested], predicted), abs=1e-3)
        assert scores["linear_pearson"] == pytest.approx(np.corrcoef(y[tested], predicted)[0, 1], abs=1e-3)
        assert scores["knn"] == pytest.approx(r2_score(y[tested], near), abs=1e-6)
    assert found["probed"]["pretrained"]["layers"]["layer_0"]["linear"] > 0.5
    report = (run / "report.md").read_text()
    assert "## R² over depth" in report and "always the mean: R² 0.000" in report and "ridge regression" in report
    assert "with a number each" in report and "Spearman" in report and "Few labels" not in report
    assert (run / "layers.png").stat().st_size > 5000 and not (run / "few_labels.png").exists()


def test_a_probe_of_numbers_goes_on_unless_they_changed(tmp_path, capsys):
    encoder = encoder_folder(tmp_path / "encoder", "vision", "v1")
    data = {"train": brightness(tmp_path / "train", 30, 0), "test": brightness(tmp_path / "test", 10, 1)}
    path = recipe(tmp_path, encoder, data, probes=["linear"], layer=1, untrained=0)
    assert main([path]) == 0
    run = tmp_path / "run"
    before = (run / "results.json").read_text()
    kept = run / "features/pretrained/train/00000.parquet"
    written = kept.stat().st_mtime_ns
    (run / "results.json").unlink()
    (run / "features/pretrained/test/00000.parquet").unlink()
    assert main([path]) == 0
    assert (run / "results.json").read_text() == before and kept.stat().st_mtime_ns == written
    (run / "results.json").unlink()
    rows = Path(data["train"]["path"])
    rows.write_text(rows.read_text().replace("00.png,", "00.png,1"))  # another brightness of the first image
    assert main([path]) == 2
    assert "features/pretrained/train holds features with another labels: '" in capsys.readouterr().err
    assert main([path, "--data.train.label_column", "number"]) == 2
    assert "holds a run with another data.train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "overrides", "message"),
    [
        ("", ["--probes", "[knn, few_labels]"], "task.probes = ['knn', 'few_labels'] is invalid: the labels are numb"),
        ("", ["--probes", "[mlp]"], "use knn and linear, few_labels and mlp are for classes"),
        ("", ["--test.label_column", "constant"], "data.test: all labels are 2.5, and R² needs numbers that differ"),
        ("", ["--max_examples", "9"], "9 examples are too few. Use 10 or more"),
        ("", ["--neighbours", "31"], "k = 31 neighbours of 30 training examples"),
        ("train 07.png", [], "data.train, row 7: it has no label: add one, or remove the row"),
        ("train 07.png nan", [], "data.train, row 7: it has no label"),
        ("train 07.png inf", [], "data.train, row 7: its label 'inf' is not a number: correct it"),
        ("train 07.png n/a", [], "data.train, row 7: its label 'n/a' is not a number: correct it"),
        ("test 04.png bright", [], "data.test, row 4: its label 'bright' is not a number: correct it"),
    ],
)
def test_numbers_that_cannot_be_probed(tmp_path, capsys, changed, overrides, message):
    encoder = encoder_folder(tmp_path / "encoder", "vision", "v1")
    data = {"train": brightness(tmp_path / "train", 30, 0), "test": brightness(tmp_path / "test", 10, 1)}
    if changed:
        split, row, *value = changed.split()
        rows = Path(data[split]["path"])
        rows.write_text(re.sub(f"{row},[^,]*", f"{row},{''.join(value)}", rows.read_text()))
    path = recipe(tmp_path, encoder, data, layer="last", untrained=0, raw_features=False)
    assert main([path, *overrides]) == 2
    assert message in capsys.readouterr().err


def test_whole_numbers_stay_classes(tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", "vision", "v1")
    data = {"train": brightness(tmp_path / "train", 30, 0), "test": brightness(tmp_path / "test", 10, 1)}
    words = ["--train.label_column", "number", "--test.label_column", "number", "--probes", "[knn]"]
    assert main([recipe(tmp_path, encoder, data, layer="last", untrained=0, raw_features=False), *words]) == 0
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert found["metric"] == "accuracy" and found["classes"] == list("0123456")
    assert read_features(tmp_path / "run/features/pretrained/test")[1].dtype == np.int64


def test_a_stopped_probe_goes_on(tmp_path, splits):
    encoder = encoder_folder(tmp_path / "encoder", "text", "v1")  # whose pooler no checkpoint holds
    path = recipe(tmp_path, encoder, splits["text"], probes=["linear"], raw_features=False)
    assert main([path]) == 0
    run = tmp_path / "run"
    before = (run / "results.json").read_text()
    kept = run / "features/pretrained/train/00000.parquet"
    written = kept.stat().st_mtime_ns
    (run / "results.json").unlink()
    (run / "features/untrained0/test/00000.parquet").unlink()
    torch.manual_seed(77)
    assert main([path]) == 0
    assert (run / "results.json").read_text() == before and kept.stat().st_mtime_ns == written


def test_an_encoder_of_transformers_and_the_finished_run(tmp_path, splits, capsys):
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 40}
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=4)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    path = recipe(tmp_path, tmp_path / "vit", splits["vision"], probes=["knn"], raw_features=False, untrained=0)
    assert main([path]) == 0
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert list(found["probed"]) == ["pretrained"] and len(found["probed"]["pretrained"]["layers"]) == 4
    assert found["probed"]["pretrained"]["best"] == "layer_3"
    assert main([path]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main([path, "--neighbours", "5"]) == 2
    assert "holds a run with another task.neighbours: 3 there, 5 here" in capsys.readouterr().err


def test_features_alone_need_no_labels(tmp_path):
    encoder = encoder_folder(tmp_path / "encoder", "audio", "v2")
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, file in enumerate(sorted((tone_folder(tmp_path / "tones", 2, 0)).rglob("*.wav"))):
        file.rename(folder / f"{number}.wav")
    path = recipe(tmp_path, encoder, {"train": {"path": str(folder)}}, probes=[], per_step=True, layer="last")
    assert main([path]) == 0
    made_from = json.loads((tmp_path / "run/features/pretrained/train/manifest.json").read_text())
    part = FeatureFolder(tmp_path / "run/features/pretrained/train", "parquet", made_from).read(0)
    assert (part.labels == -1).all() and all(row.ndim == 2 and len(row) > 5 for row in part.layers["last"])
    assert [name.rsplit("/", 1)[1] for name in part.names] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert not (tmp_path / "run/features/untrained0").exists()


def test_the_teacher_of_a_pretraining_run(tmp_path, splits, capsys):
    encoder = encoder_folder(tmp_path / "encoder", "audio", "v1")
    whole = Data2VecAudioForPreTraining.from_pretrained(encoder)
    for parameter in whole.teacher.parameters():
        parameter.data.mul_(1.5)
    path = recipe(tmp_path, encoder, splits["audio"], probes=["knn"], raw_features=False, untrained=0)
    assert main([path, "--weights", "teacher"]) == 2
    assert "holds an encoder alone" in capsys.readouterr().err
    whole.save_pretrained(encoder / "pretraining")
    processor("audio").save_pretrained(encoder / "pretraining")
    pooled = {}
    for weights in ("student", "teacher"):
        folder = str(tmp_path / weights)
        assert main([path, "--weights", weights, "--output_dir", folder]) == 0
        features = tmp_path / weights / "features/pretrained/test"
        made_from = json.loads((features / "manifest.json").read_text())
        pooled[weights] = FeatureFolder(features, "parquet", made_from).read(0).layers
    assert not np.allclose(pooled["student"]["layer_2"], pooled["teacher"]["layer_2"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--test", "null"], "data.test = null is invalid: name it, set data.group_column"),
        (["--from_scratch", "true"], "task.untrained says how many"),
        (["--data.labels_per_class", "3"], "data.labels_per_class = 3 is invalid: leave it out"),
        (["--max_tokens", "99"], "data.max_tokens = 99 is invalid: the encoder has positions for 62 tokens"),
        (["--draws", "1"], "task.draws = 1 is invalid"),
        (["--layer", "first"], "task.layer = 'first' is invalid"),
        (["--layer", "7"], "task.layer = 7 is invalid: the encoder has layers 0 to 2"),
    ],
)
def test_slips_are_refused(tmp_path, splits, capsys, overrides, message):
    encoder = encoder_folder(tmp_path / "encoder", "text", "v1")
    assert main([recipe(tmp_path, encoder, splits["text"]), *overrides]) == 2
    assert message in capsys.readouterr().err


def test_too_few_examples_for_a_linear_probe_say_so(tmp_path, capsys):
    encoder = encoder_folder(tmp_path / "encoder", "text", "v1")
    data = {split: texts(tmp_path / split, 3, seed) for seed, split in enumerate(("train", "test"))}
    assert main([recipe(tmp_path, encoder, data)]) == 2
    assert "6 examples of 2 classes, 3 of the rarest, are too few" in capsys.readouterr().err


@pytest.mark.parametrize("name", recipes_of("run_probe.py"))
def test_every_recipe_is_read(tmp_path, name):
    sections = parse_yaml((RECIPES / name).read_text(encoding="utf-8"))
    modality = name.removeprefix("probe_").removesuffix(".yaml")
    sections["model"]["model_name_or_path"] = str(
        encoder_folder(tmp_path, DATA.get(modality) and modality or "audio", "v2")
    )
    run = resolve(sections, Probe)
    assert run.data.test is not None or run.data.group_column in ("speaker_id", "session")


def test_speakers_of_emodb(tmp_path):
    if not EMODB.is_dir():
        pytest.skip("needs ../shared/data/emodb_4class")
    encoder = encoder_folder(tmp_path / "encoder", "audio", "v1")
    sections = parse_yaml((RECIPES / "probe_emodb.yaml").read_text(encoding="utf-8"))
    train = {**sections["data"]["train"], "path": str(EMODB)}
    few = {"max_examples": 30, "max_seconds": 1.0}
    path = recipe(tmp_path, encoder, {**sections["data"], "train": train, **few}, **sections["task"])
    assert main([path, "--untrained", "0", "--raw_features", "false"]) == 0
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert list(found["groups"]) == ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
    assert sum(found["groups"].values()) == 30 and found["classes"] == ["angry", "happy", "neutral", "sad"]
    assert 0 < found["probed"]["pretrained"]["layers"]["last"]["mlp"] <= 1
