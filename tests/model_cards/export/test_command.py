"""Exports as their users have them: files that run without this package's classes, at any batch size and length."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from data2vec.finetune.arguments import resolve
from data2vec.finetune.image.task import ImageClassification
from data2vec.finetune.runner import fine_tune
from data2vec.model_cards.export import command
from data2vec.model_cards.export import formats as export_formats
from data2vec.model_cards.export.command import export, main
from tests.finetune.encoders import encoder_folder, processor


HEADS: dict[str, tuple[Any, ...]] = {
    "audio": (AutoModel, AutoModelForCTC, AutoModelForAudioClassification),
    "vision": (AutoModel, AutoModelForImageClassification),
    "text": (AutoModel, AutoModelForSequenceClassification),
}
EVERY = [(kind, family, head) for kind, heads in HEADS.items() for family in ("v1", "v2") for head in heads]
EVERY += [("spectrogram", "v2", head) for head in (AutoModel, AutoModelForAudioClassification)]
QUICK = [
    ("text", "v2", AutoModel),  # of any length; speech, which takes five times as long, is docs/tasks/phones.md's
    ("vision", "v2", AutoModelForImageClassification),
]
# one block and two convolutions: lengths that are divided seven times are what tracing takes longest for; the first as
# published, since a kernel of whole strides lets the graph simplify, and guess wrongly for a batch of one
SHORT = {
    "num_hidden_layers": 1, "conv_dim": [10, 14], "conv_kernel": [10, 4], "conv_stride": [5, 8],
    "num_conv_pos_embeddings": 1,
}  # fmt: skip
LONG, SHORTER = {"audio": 9001, "text": 31, "spectrogram": 52}, {"audio": 2345, "text": 5, "spectrogram": 20}
needs_onnx = pytest.mark.skipif(
    any(export_formats.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the export extra is not installed",
)


def saved(folder: Path, kind: str, family: str, head: Any) -> Path:
    """A folder as a run leaves it: of an encoder, or of a model with a head."""
    fields: dict[str, Any] = SHORT if kind == "audio" else {}
    encoder_folder(
        folder, kind, family, **fields, **({"num_feat_extract_layers": 2} if fields and family == "v1" else {})
    )
    if head is not AutoModel:
        torch.manual_seed(1)
        head.from_pretrained(folder).save_pretrained(folder)
        processor(kind).save_pretrained(folder)
    return folder


def some_inputs(kind: str, rows: int, length: int) -> tuple[torch.Tensor, ...]:
    """A batch whose last row is half as long."""
    generator = torch.Generator().manual_seed(5)
    if kind == "vision":
        return (torch.randn(rows, 3, 16, 16, generator=generator),)
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[-1, (length + 1) // 2 :] = 0
    if kind == "audio":
        return torch.randn(rows, length, generator=generator) * mask, mask
    if kind == "spectrogram":
        return torch.randn(rows, length, 16, generator=generator) * mask.unsqueeze(-1), mask
    return torch.randint(5, 20, (rows, length), generator=generator).masked_fill(mask == 0, 1), mask


def outputs_of(head: Any, folder: Path, kind: str, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    model = head.from_pretrained(folder).eval()
    names = dict.fromkeys(("audio", "spectrogram"), ("input_values", "attention_mask")) | {"vision": ("pixel_values",)}
    with torch.no_grad():
        return model(**dict(zip(names.get(kind, ("input_ids", "attention_mask")), inputs, strict=True)))[0]


def check_torch(kind: str, family: str, head: Any, folder: Path) -> None:
    source, out = saved(folder / "run", kind, family, head), folder / "out"
    assert main([str(source), str(out)]) == 0
    assert {path.name for path in out.iterdir()} >= {"model.pt2", "export.json", "config.json"}
    program = torch.export.load(out / "model.pt2").module()
    for rows, length in ((7, LONG.get(kind, 0)), (1, SHORTER.get(kind, 0))):
        inputs = some_inputs(kind, rows, length)
        torch.testing.assert_close(program(*inputs), outputs_of(head, source, kind, inputs), atol=1e-5, rtol=1e-5)
    assert b"site-packages" not in (out / "model.pt2").read_bytes(), "it names folders of this machine"


def check_onnx(kind: str, family: str, head: Any, folder: Path) -> dict[str, Any]:
    import onnxruntime

    source, out = saved(folder / "run", kind, family, head), folder / "out"
    report = export(str(source), out, ["onnx"], int8=True)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    small = onnxruntime.InferenceSession(str(out / "model.int8.onnx"), providers=["CPUExecutionProvider"])
    for rows, length in ((7, LONG.get(kind, 0)), (1, SHORTER.get(kind, 0))):
        inputs = some_inputs(kind, rows, length)
        fed = {value.name: given.numpy() for value, given in zip(session.get_inputs(), inputs, strict=True)}
        expected = outputs_of(head, source, kind, inputs).numpy()
        np.testing.assert_allclose(session.run(None, fed)[0], expected, atol=1e-4, rtol=1e-4)
        loss = np.abs(small.run(None, fed)[0] - expected).max()
        assert 0 < loss < 0.1 * max(1.0, np.abs(expected).max()), "int8 is another model, and close to it"
    assert b"site-packages" not in (out / "model.onnx").read_bytes(), "it names folders of this machine"
    assert "MatMulInteger" in _operations(out / "model.int8.onnx")
    assert "MatMulInteger" not in _operations(out / "model.onnx")
    return report


def _operations(path: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize(("kind", "family", "head"), QUICK)
def test_torch_export_gives_the_models_outputs_at_any_length(kind, family, head, tmp_path):
    check_torch(kind, family, head, tmp_path)


@needs_onnx
def test_onnx_of_text_and_its_report(tmp_path):
    report = check_onnx("text", "v2", AutoModelForSequenceClassification, tmp_path)
    assert report == json.loads((tmp_path / "out" / "export.json").read_text())
    assert set(report["files"]) == {"model.onnx", "model.int8.onnx"}
    for name, file in report["files"].items():
        assert file["bytes"] == (tmp_path / "out" / name).stat().st_size
        lengths = {check["tokens"] for check in file["checks"]}
        assert len(lengths) == 3 and file["milliseconds"] > 0
    assert report["files"]["model.onnx"]["largest_difference"] < 1e-4
    assert report["int8_loss"]["on"] == "random inputs" and report["int8_loss"]["why_not_its_data"]
    assert str(tmp_path) not in (tmp_path / "out" / "export.json").read_text()
    assert "0.9" in command.table(report).splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "family", "head"), [case for case in EVERY if case not in QUICK])
def test_torch_export_of_the_others(kind, family, head, tmp_path):
    check_torch(kind, family, head, tmp_path)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "family", "head"), EVERY)
def test_onnx_of_all(kind, family, head, tmp_path):
    check_onnx(kind, family, head, tmp_path)


@needs_onnx
def test_int8_is_measured_on_the_test_data_of_a_fine_tuned_model(tmp_path):
    """With the metric of results.json, which the fp32 file reproduces."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 7)):
        for kind in ("dark", "light"):
            (tmp_path / split / kind).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 200, size=(16, 16, 3)) + (55 if kind == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / kind / f"{i}.png")
    recipe = {
        "model": {"model_name_or_path": str(encoder_folder(tmp_path / "encoder", "vision", "v1"))},
        "data": {"train": {"path": str(tmp_path / "train")}, "test": {"path": str(tmp_path / "test")}},
        "training": {
            "output_dir": str(tmp_path / "run"), "max_steps": 4, "per_device_train_batch_size": 8, "use_cpu": True,
            "report_to": "none", "learning_rate": 1e-3, "save_strategy": "no",
        },
    }  # fmt: skip
    results = fine_tune(resolve(recipe, ImageClassification), ImageClassification)
    loss = export(str(tmp_path / "run"), tmp_path / "out", ["onnx"], int8=True)["int8_loss"]
    assert loss["on"] == "14 examples of test" and loss["metric"] == "accuracy"
    assert loss["fp32"] == results["test"]["accuracy"] and 0 <= loss["int8"] <= 1


def test_a_file_that_differs_is_not_left(tmp_path, monkeypatch, capsys):
    source = saved(tmp_path / "run", "vision", "v2", AutoModel)
    monkeypatch.setattr(command, "write_torch", lambda model, path: path.write_bytes(b"another model"))
    monkeypatch.setattr(
        command, "run_torch", lambda path: lambda inputs: torch.zeros(len(inputs["pixel_values"]), 17, 24)
    )
    assert main([str(source), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: model.pt2 was not kept: with ") and "more than 0.0001" in message
    assert list((tmp_path / "out").iterdir()) == []


@needs_onnx
def test_static_int8_takes_its_ranges_from_data_and_is_not_left_where_it_differs(tmp_path, monkeypatch, capsys):
    """Only what is calibrated has scales of its own in the file; its loss is measured on what was left out."""
    source = saved(tmp_path / "run", "vision", "v2", AutoModelForImageClassification)
    (tmp_path / "images").mkdir()
    for i in range(7):
        pixels = np.random.default_rng(i).integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    words = [str(source), str(tmp_path / "out"), "--format", "onnx", "--int8", "--calibration"]
    assert main([*words, str(tmp_path / "images")]) == 0
    loss = json.loads((tmp_path / "out" / "export.json").read_text())["int8_loss"]
    assert loss["on"] == "3 examples of calibration data, not calibrated on"
    assert loss["activations_quantised"] == "in the ranges of 4 examples" and 0 < loss["largest_difference"] < 0.1
    operations = _operations(tmp_path / "out" / "model.int8.onnx")
    assert "QuantizeLinear" in operations and "MatMulInteger" not in operations
    for i in range(2, 7):
        (tmp_path / "images" / f"{i}.png").unlink()
    assert main([*words, str(tmp_path / "images")]) == 2
    assert "images' has 2 usable examples: must have 3 or more" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "none")]) == 2
    assert "none' cannot be opened: " in capsys.readouterr().err

    (tmp_path / "out" / "model.onnx").rename(tmp_path / "kept.onnx")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(command, "write_onnx", lambda program, model, path: shutil.copy(tmp_path / "kept.onnx", path))
    monkeypatch.setattr(command, "INT8_TOLERANCE", 1e-9)
    assert main([*words[:-1]]) == 2
    message = capsys.readouterr().err
    assert "error: model.int8.onnx was not kept: on random inputs an output differs from fp32's by 0.0" in message
    assert "more than 1e-09. Leave --int8 out" in message and list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_is_refused_with_the_fix(tmp_path, monkeypatch, capsys):
    source = saved(tmp_path / "run", "text", "v2", AutoModel)
    for words, message in (
        (["--int8"], "add onnx to --format"),
        (["--calibration", "x"], "calibration = 'x' is for int8: add --int8."),
    ):
        assert main([str(source), str(tmp_path / "out"), *words]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None if name == "onnxruntime" else True)
    assert main([str(source), str(tmp_path / "out"), "--format", "onnx"]) == 2
    assert "needs onnxruntime: pip install 'data2vec[export]'" in capsys.readouterr().err
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"architectures": ["Data2Vec2TextForPreTraining"]}))
    assert main([str(source), str(tmp_path / "out")]) == 2
    assert "Data2Vec2TextForPreTraining, which has no export" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
