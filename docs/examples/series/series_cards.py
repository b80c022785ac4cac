"""What is shown of a run on series: the words of its card, its pictures, its export."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from series_data import SeriesData
from torch import Tensor
from torch.export import Dim
from transformers import PreTrainedModel

from data2vec.model_cards.card.modalities import CARD_WORDS, CardWords
from data2vec.model_cards.export.model import EXPORTS, Exportable, Shape
from data2vec.model_cards.report.figures import ReportFigure, attention_matrix, coloured, covered, percent, picture
from data2vec.model_cards.report.inputs import Inputs, Masked
from data2vec.model_cards.report.page_pictures import DRAWINGS


CELL = 6  # pixels of a number


class SeriesDrawing:
    """One row per channel, one column per step."""

    kind: ClassVar[Literal["tiles", "plots"]] = "plots"

    def masks(self, inputs: Inputs, example: Masked, name: str) -> list[ReportFigure]:
        values = example.batch["series_values"][0].numpy().T  # (channels, steps)
        pixels = coloured((values + 2) / 4).repeat(CELL, 0).repeat(CELL, 1)
        found = [picture(f"{name}_whole", pixels, "what the teacher reads", "The whole series.", wide=True)]
        for number, masked in enumerate(example.masked, 1):
            said = f"view {number}: {percent(masked.mean())} hidden"
            columns = np.zeros(pixels.shape[1], dtype=bool)
            columns[: masked.size * inputs.modality.patch_steps * CELL] = masked.repeat(
                inputs.modality.patch_steps * CELL
            )
            shown = covered(pixels, np.broadcast_to(columns, pixels.shape[:2]))
            found.append(picture(f"{name}_view{number}", shown, said, f"The same series, {said}.", wide=True))
        return found

    def attention(self, inputs: Inputs, example: Masked, maps: Sequence[np.ndarray], name: str) -> list[ReportFigure]:
        return [attention_matrix(f"{name}_matrix", maps[-1], "patches", "last block")]


class ExportableSeries(Exportable):
    """Any number of whole patches of steps."""

    names = ("series_values", "attention_mask")
    unit = "steps"

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self.shortest, self.longest = 2 * model.config.patch_steps, None
        self.traced, self.timed = Shape(3, 26), Shape(1, 64)
        self.checked = (Shape(1, self.shortest), Shape(2, 16), Shape(5, 42))

    def dims(self) -> tuple[dict[int, Any], ...]:
        batch, patches = Dim("batch"), Dim("patches", min=2)
        return tuple({0: batch, 1: self.model.config.patch_steps * patches} for _ in self.names)

    def example(self, shape: Shape, seed: int = 0) -> dict[str, Tensor]:
        config: Any = self.model.config
        mask, generator = self._masked(shape), torch.Generator().manual_seed(seed)
        values = torch.randn(shape.rows, shape.length, config.num_channels, generator=generator)
        return {"series_values": values * mask.unsqueeze(-1), "attention_mask": mask}

    def forward(self, series_values: Tensor, attention_mask: Tensor) -> Tensor:
        return self._only(series_values=series_values, attention_mask=attention_mask)


CARD_WORDS[SeriesData] = CardWords(
    tag="time-series",
    limits="It knows the kinds of movement in its training data, at their rate.",
    imports=("import torch",),
    example=lambda config: f"example = torch.zeros(30, {config['num_channels']})  # your series: steps, channels",
    call="processor(example)",
)
DRAWINGS[SeriesData] = SeriesDrawing()
EXPORTS[SeriesData] = ExportableSeries
