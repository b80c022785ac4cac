"""Floating-point operations of one training step, by formula: matrix products and convolutions, a multiply-add is two.

Counted is what the method needs, not what an implementation does: nothing is recomputed, a gradient that nobody reads
(of samples, of pixels) is not taken, and the teacher has no backward pass. Norms, activations, the optimizer and the
loss are left out: they are bound by memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data2vec.modeling import ObjectiveConfig


@dataclass(frozen=True)
class Part:
    """Operations of one part of a step, forward and backward."""

    name: str
    kind: str  # "linear", "attention" or "convolution"
    forward: float
    backward: float


@dataclass(frozen=True)
class Shape:
    """What a step sees.

    Attributes:
        batch: samples.
        length: of a sample: samples of sound, pixels of a side, or tokens.
        time: tokens of a sample.
        kept: tokens that the student sees of a view (all of them in data2vec 1).
        masked: positions that are predicted, of the whole batch.
    """

    batch: int
    length: int
    time: int
    kept: int
    masked: int


def linear(rows: int, inside: int, outside: int) -> float:
    return 2.0 * rows * inside * outside


def convolution(positions: int, inside: int, outside: int, kernel: int, groups: int = 1) -> float:
    """`positions` are those of the output; `kernel` is the product of its sides."""
    return 2.0 * positions * (inside // groups) * outside * kernel


def attention(rows: int, time: int, dim: int) -> float:
    """Scores and their product with the values."""
    return 4.0 * rows * time * time * dim


def step(config: Any, objective: ObjectiveConfig, shape: Shape) -> list[Part]:
    """Every part of a step of a `...ForPreTraining` model, see [`Shape`]."""
    second = objective.views is not None
    return list(_second(config, objective, shape) if second else _first(config, objective, shape))


def total(parts: list[Part]) -> float:
    return sum(part.forward + part.backward for part in parts)


def by_part(parts: list[Part]) -> dict[str, float]:
    names = dict.fromkeys(part.name for part in parts)
    return {name: total([part for part in parts if part.name == name]) for name in names}


def _learned(name: str, kind: str, forward: float, passes: int = 2) -> Part:
    """A part with a backward pass: the gradient of its weights and, with 2 passes, of its input."""
    return Part(name, kind, forward, passes * forward)


def _blocks(config: Any, number: int, rows: int, time: int) -> tuple[float, float]:
    """Linear and attention operations of so many blocks, forward."""
    dim, wide = config.hidden_size, config.intermediate_size
    tokens = rows * time
    return number * (4 * linear(tokens, dim, dim) + 2 * linear(tokens, dim, wide)), number * attention(rows, time, dim)


def _students(config: Any, number: int, rows: int, time: int) -> Iterator[Part]:
    products, scores = _blocks(config, number, rows, time)
    yield _learned("student", "linear", products)
    yield _learned("student", "attention", scores)


def _teachers(config: Any, number: int, rows: int, time: int) -> Iterator[Part]:
    products, scores = _blocks(config, number, rows, time)
    yield Part("teacher", "linear", products, 0.0)
    yield Part("teacher", "attention", scores, 0.0)


def _front_end(config: Any, shape: Shape, passes_of_teacher: int) -> Iterator[Part]:
    """What makes tokens of the input; samples and pixels need no gradient. Text looks them up."""
    if hasattr(config, "conv_stride"):
        inside, length = 1, shape.length
        for outside, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
            forward = convolution(shape.batch * length, inside, outside, kernel)
            yield _learned("front end", "convolution", forward, passes=1 if inside == 1 else 2)
            inside = outside
        yield _learned("front end", "linear", linear(shape.batch * length, inside, config.hidden_size))
    elif hasattr(config, "patch_size"):
        patches = shape.batch * (shape.length // config.patch_size) ** 2
        forward = convolution(patches, config.num_channels, config.hidden_size, config.patch_size**2)
        yield _learned("front end", "convolution", forward, passes=1)
        yield Part("teacher", "convolution", passes_of_teacher * forward, 0.0)


def _positions(config: Any, rows: int, time: int) -> float:
    """The stacked positional convolutions of speech."""
    if not hasattr(config, "conv_stride"):
        return 0.0
    dim, kernel, groups = config.hidden_size, config.conv_pos_kernel_size, config.num_conv_pos_embedding_groups
    return config.num_conv_pos_embeddings * convolution(rows * time, dim, dim, kernel, groups)


def _head(config: Any, objective: ObjectiveConfig, inside: int, masked: int) -> Part:
    widths = [inside] + [2 * inside] * (objective.head_layers - 1) + [config.hidden_size]
    products = (linear(masked, a, b) for a, b in zip(widths[:-1], widths[1:], strict=True) if objective.head_layers)
    return _learned("head", "linear", sum(products))


def _first(config: Any, objective: ObjectiveConfig, shape: Shape) -> Iterator[Part]:
    """data2vec 1: the student sees every token, hidden ones replaced; images have a CLS token in front."""
    time = shape.time + (1 if hasattr(config, "patch_size") else 0)
    own = int(objective.ema_scope == "all")
    yield from _front_end(config, shape, own)
    positions = _positions(config, shape.batch, time)
    if positions:
        yield _learned("student", "convolution", positions)
        yield Part("teacher", "convolution", positions, 0.0)
    yield from _students(config, config.num_hidden_layers, shape.batch, time)
    yield from _teachers(config, config.num_hidden_layers, shape.batch, time)
    yield _head(config, objective, config.hidden_size, shape.masked)


def _second(config: Any, objective: ObjectiveConfig, shape: Shape) -> Iterator[Part]:
    """data2vec 2.0: the student sees what each view keeps, the teacher everything, once."""
    decoder, views = objective.decoder, objective.views
    assert decoder is not None and views is not None
    rows, extra = shape.batch * views, config.num_extra_tokens
    blocks = config.num_hidden_layers + config.num_prenet_layers
    yield from _front_end(config, shape, int(objective.ema_scope == "all"))
    if hasattr(config, "conv_stride"):
        yield _learned("student", "convolution", _positions(config, rows, shape.time))
        yield Part("teacher", "convolution", _positions(config, shape.batch, shape.time), 0.0)
    yield from _students(config, blocks, rows, shape.kept + extra)
    yield from _teachers(config, blocks, shape.batch, shape.time + extra)
    kernel = decoder.kernel**config.axes
    widths = [config.hidden_size] + [decoder.dim] * decoder.layers
    for inside, outside in zip(widths[:-1], widths[1:], strict=True):
        forward = convolution(rows * shape.time, inside, outside, kernel, decoder.groups)
        yield _learned("decoder", "convolution", forward)
    yield _head(config, objective, decoder.dim, shape.masked)
