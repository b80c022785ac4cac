"""Clouds: hidden groups, features as colours, and where the encoder looks."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from ...modeling.point_groups import farthest_points, pick, squared_distances
from .draw_features import feature_colours, shares
from .figures import COVER, ReportFigure, blocks_to_show, coloured, percent, picture, received
from .inputs import Inputs, Masked


SIDE = 224  # pixels of a picture
MARGIN = 8
DOT = 2  # pixels around a point's own
GROUND = (24, 26, 32)
MARK = (64, 224, 255)  # the centre that looks
SIDEWAYS, DOWN = np.radians(35), np.radians(25)  # from where a cloud is looked at
TURN = np.array(
    [
        [np.cos(SIDEWAYS), 0, -np.sin(SIDEWAYS)],
        [-np.sin(SIDEWAYS) * np.sin(DOWN), np.cos(DOWN), -np.cos(SIDEWAYS) * np.sin(DOWN)],
        [np.sin(SIDEWAYS) * np.cos(DOWN), np.sin(DOWN), np.cos(SIDEWAYS) * np.cos(DOWN)],
    ]
)  # right, up and towards who looks


class PointsDrawing:
    """See [`figures.Drawing`]. A point has the colour of the group whose centre is nearest."""

    kind: ClassVar[Literal["tiles", "plots"]] = "tiles"

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        points, groups, _ = _grouped(inputs, example)
        depth = coloured(shares(points @ TURN[2])[None], "viridis")[0]  # (points, 3)
        found = [picture(f"{name}_whole", _drawn(points, depth), "what the teacher sees", "The whole cloud.")]
        for number, masked in enumerate(example.masked):
            said = f"{masked.sum()} of {masked.size} groups hidden ({percent(masked.mean())})"
            shown = np.where(masked[groups][:, None], COVER[0], depth)
            caption, alt = example.view(number) + said, f"The same cloud, {said}."
            found.append(picture(f"{name}_view{number + 1}", _drawn(points, shown), caption, alt))
        return found

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        points, groups, centers = _grouped(inputs, example)
        rgb = feature_colours(inputs, example)[groups]
        caption = "features of the last block: their three main directions as red, green and blue"
        found = [
            picture(f"{name}_features", _drawn(points, rgb), caption, "The cloud in the colours of its features.")
        ]
        for block, called in blocks_to_show(len(maps)).items():
            share = received(maps[block])
            caption = f"{called}: strongest group {share.max():.1f} × the average"
            shown = _drawn(points, _heat(share)[groups])
            found.append(picture(f"{name}_block{block + 1}", shown, caption, f"Attention each group gets, {called}."))
        looking = int(np.linalg.norm(centers, axis=1).argmax())  # an end of the object
        row = maps[-1][looking]
        shown = _drawn(points, _heat(row)[groups], centers[looking])
        caption = f"last block, from the marked group: {percent(row.max())} on one group"
        alt = "What the marked group looks at in the last block."
        return [*found, picture(f"{name}_from_group", shown, caption, alt)]


def _grouped(inputs: Inputs, example: Masked) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (points, 3), the group of each (points,), and the groups' centres (groups, 3)."""
    points = example.batch["point_values"]
    centers = pick(points, farthest_points(points, inputs.modality.groups, example.batch.get("start")))
    groups = squared_distances(points, centers).argmin(-1)
    return points[0].numpy(), groups[0].numpy(), centers[0].numpy()


def _heat(shares: np.ndarray) -> np.ndarray:
    """(groups, 3) uint8, from none to the most."""
    return coloured(shares[None] / max(float(shares.max()), 1e-12))[0]


def _drawn(points: np.ndarray, colours: np.ndarray, marked: np.ndarray | None = None) -> np.ndarray:
    """Points as squares, the nearest drawn last: (height, width, 3) uint8."""
    pixels = np.full((SIDE, SIDE, 3), GROUND, dtype=np.uint8)
    radius = max(float(np.linalg.norm(points, axis=1).max()), 1e-12)
    reach = (SIDE - 2 * MARGIN) / 2 / radius
    order = np.argsort(points @ TURN[2])
    for point, colour in zip(points[order], np.asarray(colours)[order], strict=True):
        _dot(pixels, point, reach, colour, DOT)
    if marked is not None:
        _dot(pixels, marked, reach, MARK, 2 * DOT)
    return pixels


def _dot(pixels: np.ndarray, point: np.ndarray, reach: float, colour: Sequence[int] | np.ndarray, size: int) -> None:
    x, y = round(SIDE / 2 + reach * float(point @ TURN[0])), round(SIDE / 2 - reach * float(point @ TURN[1]))
    pixels[max(y - size, 0) : y + size + 1, max(x - size, 0) : x + size + 1] = colour
