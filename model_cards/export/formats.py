"""The files an export makes, and running them: .pt2 of torch.export, ONNX, and ONNX with int8 weights."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from .model import Exportable, Inputs


TORCH, ONNX, INT8 = "model.pt2", "model.onnx", "model.int8.onnx"
Runner = Callable[[Inputs], Tensor]
# What onnxruntime computes in int8 on a CPU: matrix products, and tables of embeddings; convolutions stay fp32
QUANTISED = ["MatMul", "Gemm", "Gather"]
OPSET = 18


def require_onnx() -> None:
    """ValueError, with the command that installs it, where a library of the `export` extra is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"format = onnx needs {', '.join(missing)}: pip install 'data2vec[export]', or use --format torch."
        )


def write_torch(program: ExportedProgram, path: Path) -> None:
    torch.export.save(program, path)


def write_onnx(program: ExportedProgram, model: Exportable, path: Path) -> None:
    """Any batch and any length, as in the trace of `model`."""
    with quiet():
        converted = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(model.names),
            output_names=[model.output_name],
            verbose=False,
        )
        assert converted is not None
        graph = converted.model.graph
        for value in graph.inputs:
            value.shape = renamed(value.shape, ("batch", "length"))
        for value in graph.outputs:
            value.shape = renamed(value.shape, ("batch", "time"))
        for node in converted.model.graph.all_nodes():
            node.metadata_props.clear()  # where the code lay on this machine
        converted.save(path)


def renamed(shape: Any, names: tuple[str, str]) -> Any:
    """A shape of ONNX whose dynamic axes have names that a reader knows."""
    from onnx_ir import Shape

    sizes = [size if isinstance(size, int) else None for size in shape]
    return Shape([name if size is None else size for size, name in zip(sizes, (*names, None, None), strict=False)])


def write_int8(source: Path, path: Path, calibration: Sequence[Inputs] = ()) -> None:
    """Weights of matrix products as int8, a scale for each column.

    Activations are quantised as they come (dynamic) or, with `calibration`, in the ranges they have there (static).
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            inputs = next(self.rest, None)
            return None if inputs is None else {name: value.numpy() for name, value in inputs.items()}

    model = onnx.load(source)
    del model.graph.value_info[:]  # the quantiser turns some weights round and then trips over their old shapes
    how: dict[str, Any] = {"op_types_to_quantize": QUANTISED, "per_channel": True, "weight_type": QuantType.QInt8}
    how["reduce_range"] = True  # 7 bits: sums of two products overflow on x86 without VNNI
    with quiet():
        if not calibration:
            quantize_dynamic(model, path, **how)
            return
        weights = {weight.name for weight in model.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT}
        of_activations = [node.name for node in model.graph.node if not weights.intersection(node.input)]
        # a product's result stays fp32: it is added to and normalised next
        quantize_static(
            model,
            path,
            Reader(),
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=of_activations,
            extra_options={"OpTypesToExcludeOutputQuantization": QUANTISED},
            **how,
        )


def run_torch(path: Path) -> Runner:
    program: Any = torch.export.load(path).module()

    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            output: Tensor = program(*inputs.values())
        return output

    return run


def run_onnx(path: Path) -> Runner:
    """Runs on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        output: np.ndarray = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
        return torch.from_numpy(output)

    return run


def run_eager(model: Exportable) -> Runner:
    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            output: Tensor = model(**inputs)
        return output

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the converters say about their own parts and about libraries that are not there."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "root")
    before = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
