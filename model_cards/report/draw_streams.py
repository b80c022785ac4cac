"""Several streams on one clock: what student and teacher read of each frame."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from .figures import ReportFigure, attention_matrix, coloured, covered, percent, picture
from .inputs import Inputs, Masked


CELL = 30  # pixels of a frame, about
INK = (32, 96, 160)
Painter = Callable[[Inputs, dict[str, Tensor]], np.ndarray]  # a batch of one -> (frames, height, width, 3) uint8


class StreamsDrawing:
    """See [`figures.Drawing`]: a row of frames for each stream."""

    kind: ClassVar[Literal["tiles", "plots"]] = "plots"

    def __init__(self, painters: Mapping[str, Painter]):
        self.painters = painters

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        streams = inputs.config.streams
        painted = [self.painters[stream](inputs, example.batch) for stream in streams]
        masked = torch.from_numpy(example.masked)
        objective: Any = inputs.objective
        drawn = objective.draw_streams(streams, masked, None, example.batch["stream_seeds"], 0)
        student = drawn.student_streams[0].numpy()  # (frames, streams)
        teacher = drawn.teacher_streams[0].numpy()  # (1, streams)
        if inputs.objective.decoder is None:  # hidden tokens stay, but tell nothing
            student = student & ~example.masked[0][:, None]
        read = " and ".join(stream for stream, has in zip(streams, teacher[0], strict=True) if has)
        found = [self._rows(f"{name}_teacher", painted, teacher, f"what the teacher reads: {read}")]
        shares = [f"{percent(float((~student[:, n]).mean()))} of {stream}" for n, stream in enumerate(streams)]
        said = f"hidden from the student: {', '.join(shares)}; loss at {percent(float(drawn.scored.float().mean()))}"
        return [*found, self._rows(f"{name}_student", painted, student, said)]

    def _rows(self, name: str, painted: list[np.ndarray], read: np.ndarray, said: str) -> ReportFigure:
        rows = []
        for number, frames in enumerate(painted):
            hidden = np.broadcast_to(~read[:, number], len(frames))
            pixels = np.concatenate(list(frames), axis=1)  # (height, frames * width, 3)
            columns = hidden.repeat(frames.shape[2])
            rows.append(covered(pixels, np.broadcast_to(columns, pixels.shape[:2])))
        return picture(name, np.concatenate(rows), said, f"Frames from left to right, {said}.", wide=True)

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        return [attention_matrix(f"{name}_matrix", maps[-1], "frames", "last block")]


def frames_of(inputs: Inputs, batch: dict[str, Tensor]) -> np.ndarray:
    """Frames before normalisation, every so many pixels of them."""
    processor, values = inputs.modality.processor, batch["pixel_values"][0]  # (frames, channels, height, width)
    mean, std = (torch.tensor(level).view(-1, 1, 1) for level in (processor.image_mean, processor.image_std))
    pixels = ((values * std + mean).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
    repeat, step = max(1, CELL // pixels.shape[1]), max(1, pixels.shape[1] // CELL)
    pixels = pixels[:, ::step, ::step].repeat(repeat, axis=1).repeat(repeat, axis=2)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def joints_of(inputs: Inputs, batch: dict[str, Tensor]) -> np.ndarray:
    """A dot for each joint, in cells as wide as the frames'."""
    points, size = batch["keypoint_values"][0], inputs.modality.processor.image_size
    side = frames_of(inputs, batch).shape[1]
    cells = np.full((len(points), side, side, 3), 255, dtype=np.uint8)
    places = (points.flatten(1, 2) * side / size).round().long()  # (frames, joints, 2)
    for cell, joints in zip(cells, places, strict=True):
        seen = joints[((joints > 0) & (joints < side)).all(-1)]
        cell[seen[:, 1], seen[:, 0]] = INK
    return cells


def sound_of(inputs: Inputs, batch: dict[str, Tensor]) -> np.ndarray:
    """Energies of each frame, high ones on top, in cells as wide as the frames'."""
    processor, values = inputs.modality.processor, batch["input_features"][0]  # (frames, stacked * bins)
    mel = values.view(len(values), -1, processor.num_mel_bins).transpose(1, 2).flip(1)  # (frames, bins, stacked)
    side = frames_of(inputs, batch).shape[1]
    mel = torch.nn.functional.interpolate(mel.unsqueeze(1), (side, side)).squeeze(1)
    return coloured(((mel + 2) / 4).clamp(0, 1).numpy().reshape(-1, side)).reshape(len(values), side, side, 3)
