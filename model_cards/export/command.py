"""Export a model: `data2vec export RUN_FOLDER_OR_HUB_ID OUT [--format torch onnx] [--int8 [--calibration DATA]]`.

OUT receives model.pt2 (torch.export), model.onnx and model.int8.onnx as asked for, the model's configuration and
processor, and export.json with what was checked and measured. A file whose outputs differ from PyTorch's by more than
1e-4 at other batch sizes and lengths than the traced ones is not left there, nor an int8 file whose outputs differ by
more than 0.2 on the data that its loss is measured on.
"""

import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

import data2vec  # noqa: F401  registers the classes of 2.0
from data2vec.model_cards.command_line import export_parser, require_exportable
from data2vec.model_cards.export.calibration import calibration_inputs
from data2vec.model_cards.export.formats import (
    INT8,
    ONNX,
    TORCH,
    Runner,
    require_onnx,
    run_eager,
    run_onnx,
    run_torch,
    write_int8,
    write_onnx,
    write_torch,
)
from data2vec.model_cards.export.measure import differences, int8_loss, speed
from data2vec.model_cards.export.model import Exportable, Inputs, exportable, open_model, trace
from data2vec.pretraining.checkpoints.run_files import write_text
from data2vec.pretraining.console.help import EXIT_REFUSED, end
from data2vec.pretraining.modalities.build import modality_of


TOLERANCE, INT8_TOLERANCE = 1e-4, 0.2
REPORT = "export.json"


def export(
    name: str,
    out: str | Path,
    formats: Sequence[str] = ("torch",),
    int8: bool = False,
    calibration: str | None = None,
) -> dict[str, Any]:
    """Write the exports of a model into `out`; returns what export.json holds.

    Args:
        name: a run folder or a Hub id.
        formats: of "torch", "onnx".
        int8: also ONNX with int8 weights.
        calibration: data, in whose ranges activations are then quantised; they are quantised as they come without.

    Raises:
        ValueError: the model has no export, a library is missing, or an export does not give PyTorch's outputs.
    """
    require_exportable(name, formats, int8, calibration)
    if "onnx" in formats:
        require_onnx()
    model = exportable(open_model(name))
    out = Path(out)
    examples = ([], []) if calibration is None else calibration_inputs(name, calibration, model, out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as aside:
        runners, checks = _write(name, model, Path(aside), formats)
        loss = _write_int8(name, model, Path(aside), runners, *examples) if int8 else {}
        if int8:
            checks[INT8] = differences(model, run_eager(model), runners[INT8])
        report = _report(name, model, Path(aside), runners, checks) | loss
        for path in sorted(Path(aside).iterdir()):
            path.replace(out / path.name)
    model.model.config.save_pretrained(out)
    _save_processor(name, model, out)
    write_text(out / REPORT, json.dumps(report, indent=2) + "\n")
    return report


def _write(
    name: str, model: Exportable, folder: Path, formats: Sequence[str]
) -> tuple[dict[str, Runner], dict[str, list[dict[str, Any]]]]:
    """Write and check the files; how to run each, and how far each is from PyTorch."""
    # The fused attention's strides depend on the kernel that is chosen, which another machine, or gradients that are
    # recorded, change: the graph is of the attention spelt out, and is compared with the model as it is.
    spelt_out = exportable(open_model(name, "eager"))
    program, eager = trace(spelt_out), run_eager(model)
    runners: dict[str, Runner] = {}
    if "torch" in formats:
        write_torch(program, folder / TORCH)
        runners[TORCH] = run_torch(folder / TORCH)
    if "onnx" in formats:
        write_onnx(program, spelt_out, folder / ONNX)
        runners[ONNX] = run_onnx(folder / ONNX)
    checks = {file: differences(model, eager, runner) for file, runner in runners.items()}
    for file, found in checks.items():
        worst = max(found, key=lambda check: check["difference"])
        if not worst["difference"] <= TOLERANCE:
            raise ValueError(
                f"{file} was not kept: with {worst['rows']} rows of {worst[model.unit]} {model.unit} its output "
                f"differs from PyTorch's by {worst['difference']:.1e}, more than {TOLERANCE:g}. Export in the other "
                "format, or with the versions in constraints.txt."
            )
    return runners, checks


def _write_int8(
    name: str,
    model: Exportable,
    folder: Path,
    runners: dict[str, Runner],
    ranges: Sequence[Inputs],
    held_out: Sequence[Inputs],
) -> dict[str, Any]:
    """Write int8 from the ONNX file and add how to run it; returns what it loses."""
    write_int8(folder / ONNX, folder / INT8, ranges)
    runners[INT8] = run_onnx(folder / INT8)
    loss = int8_loss(name, model, runners[ONNX], runners[INT8], held_out)
    if not loss["largest_difference"] <= INT8_TOLERANCE:
        raise ValueError(
            f"{INT8} was not kept: on {loss['on']} an output differs from fp32's by {loss['largest_difference']:.2f} "
            f"of the largest, more than {INT8_TOLERANCE:g}. Leave --int8 out, or calibrate on data like the model's."
        )
    how = f"in the ranges of {len(ranges)} examples" if ranges else "as they come"
    return {"int8_loss": loss | {"activations_quantised": how}}


def _report(
    name: str, model: Exportable, folder: Path, runners: dict[str, Runner], checks: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    times = speed(model, {"pytorch": run_eager(model), **runners})
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    files = {
        file: {
            "bytes": (folder / file).stat().st_size,
            "milliseconds": round(times[file], 3),
            "times_as_fast_as_pytorch": round(times["pytorch"] / times[file], 3),
            "largest_difference": max(check["difference"] for check in checks[file]),
            "checks": checks[file],
        }
        for file in runners
    }
    return {
        "model": Path(name).name if Path(name).is_dir() else name,
        "class": type(model.model).__name__,
        "inputs": list(model.names),
        "output": model.output_name,
        "shortest": model.shortest or None,
        "longest": model.longest,
        "unit": model.unit,
        "parameters": parameters,
        "pytorch": {"bytes": 4 * parameters, "milliseconds": round(times["pytorch"], 3)},
        "files": files,
        "timed_with": {"rows": model.timed.rows, model.unit: model.timed.length or 1},
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in ("torch", "transformers", *_onnx_packages(runners))},
    }


def _onnx_packages(runners: dict[str, Runner]) -> tuple[str, ...]:
    return ("onnx", "onnxruntime") if ONNX in runners else ()


def _save_processor(name: str, model: Exportable, out: Path) -> None:
    """What turns clips, pictures or sentences into the inputs, where the model has it beside it."""
    for opener in (AutoProcessor, modality_of(model.model.config.model_type).processor_class):
        try:
            opener.from_pretrained(name, trust_remote_code=False).save_pretrained(out)
            return
        except (OSError, ValueError):
            continue


def table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    lines = [f"{'':16}{'MB':>9}{'ms':>10}{'speed':>9}{'difference':>13}"]
    base = report["pytorch"]
    lines.append(f"{'PyTorch':16}{base['bytes'] / 1e6:9.1f}{base['milliseconds']:10.1f}{'1.00 x':>9}{'':>13}")
    for name, file in report["files"].items():
        ratio = f"{file['times_as_fast_as_pytorch']:.2f} x"
        size, time = file["bytes"] / 1e6, file["milliseconds"]
        lines.append(f"{name:16}{size:9.1f}{time:10.1f}{ratio:>9}{file['largest_difference']:13.1e}")
    loss = report.get("int8_loss")
    if loss is not None and "metric" in loss:
        lines.append(f"int8: {loss['metric']} {loss['int8']:.4f}, with fp32 {loss['fp32']:.4f}, on {loss['on']}")
    elif loss is not None:
        lines.append(f"int8: outputs turned to a cosine of {loss['mean_cosine']:.4f} on {loss['on']}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    args = export_parser().parse_args(argv)
    try:
        report = export(args.model, args.out, args.format, args.int8, args.calibration)
    except (ValueError, OSError) as error:
        return end(EXIT_REFUSED, error)
    print(table(report))
    print(f"{args.out / REPORT} holds the checks and what was measured.")
    return 0
