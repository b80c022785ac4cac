"""What is predicted: a class per `objective.target` says who teaches it, where it is scored and on which scale."""

from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from .loss import LossTerm
from .pretraining_step import Step, View


class KnownTargets:
    """Targets that are not an average of layers.

    Attributes:
        values: `(batch or rows, time, numbers)` fp32, or ids `(batch, time, 1)` long.
        in_front: `(rows, extra, dim)` fp32, those of the student's extra tokens, which are compared too.
        layers: as of [`targets.TopKAverage`].
    """

    attended: Tensor | None = None  # no teacher attends

    def __init__(self, values: Tensor, in_front: Tensor | None = None, layers: list[Tensor] | None = None):
        self.values, self.in_front, self.layers = values, in_front, layers

    def result(self) -> Tensor:
        return self.values


class LayersTarget:
    """What blocks of the teacher, which reads everything, make of what is hidden (data2vec)."""

    term = "regression"  # what logs call its loss
    has_teacher = True  # whether one of the encoder's own kind follows the student, or is a frozen copy
    has_decoder = True  # False: the student's states are compared as they are
    scores_replaced = False  # True: words that masks replaced by others, or left as they are, are scored too
    needs: ClassVar[dict[str, Any]] = {}  # fields of the objective that must have these values

    def check(self, objective: Any) -> None:
        """Raise a ValueError where the rest of the objective does not fit."""
        for name, value in self.needs.items():
            if getattr(objective, name) != value:
                raise ValueError(
                    f"objective.{name} = {getattr(objective, name)!r}: must be {value!r} with objective.target = "
                    f"{objective.target!r}."
                )

    def check_embeddings(self, model_type: str, embeddings: type) -> None:
        """Raise a ValueError where the encoder's embeddings do not fit."""

    def blocks(self, objective: Any, own: int) -> int:
        """Blocks of the teacher; the encoder has `own`."""
        return own

    def numbers(self, objective: Any, embeddings: Any) -> int | None:
        """How many are predicted at a position; `None` for the width of the encoder."""
        return None

    def scale(self, dim: int) -> float:
        """Factor of the loss summed over channels."""
        return 1 / sqrt(dim)

    def scored(self, masked: Tensor, real: Tensor | None, drops_hidden: bool) -> Tensor:
        """Where the loss is taken, see [`ObjectiveConfig.scored_positions`]."""
        return masked

    def targets(self, model: Any, inputs: tuple[Any, ...], view: View, keep_layers: bool) -> Any:
        """What `model`, whose student reads `view` of `inputs`, is to predict."""
        return model.make_targets(inputs, view.tokens, keep_layers)

    def terms(self, model: Any, regression: LossTerm, targets: Any, step: Step) -> list[LossTerm]:
        """The terms of the loss, of which the first is about scored positions."""
        terms: list[LossTerm] = model.loss_terms(regression, step)
        return terms


class InputTarget(LayersTarget):
    """What is hidden itself: normalised pixels of a patch (MAE), a token (BERT)."""

    term = "reconstruction"
    has_teacher = False
    scores_replaced = True
    needs: ClassVar = {"cls_loss_weight": 0}  # there are no targets of a whole sample

    def check_embeddings(self, model_type: str, embeddings: type) -> None:
        if not hasattr(embeddings, "input_targets"):
            raise ValueError(
                f"objective.target = 'input': must be another one with model type {model_type!r}, whose embeddings do "
                "not say what a token's input is (input_targets)."
            )

    def numbers(self, objective: Any, embeddings: Any) -> int | None:
        count: int = embeddings.input_numbers
        return count

    def scale(self, dim: int) -> float:
        return 1 / dim

    def targets(self, model: Any, inputs: tuple[Any, ...], view: View, keep_layers: bool) -> KnownTargets:
        return KnownTargets(model.base_model.embeddings.input_targets(*inputs))


class SameViewTarget(LayersTarget):
    """What a frozen teacher makes of what the student reads, extra tokens included (feature distillation)."""

    term = "distillation"
    has_decoder = False
    needs: ClassVar = {"cls_loss_weight": 0, "ema_scope": "frozen"}  # else both agree on anything

    def check(self, objective: Any) -> None:
        super().check(objective)
        if objective.decoder is None:
            raise ValueError(
                "objective.decoder = null: must be a decoder with objective.target = 'same_view'; it says whether "
                "hidden tokens are dropped."
            )

    def scale(self, dim: int) -> float:
        return 1 / dim

    def scored(self, masked: Tensor, real: Tensor | None, drops_hidden: bool) -> Tensor:
        seen = ~masked if drops_hidden else torch.ones_like(masked)
        if real is None:
            return seen
        return seen & (real if masked.dim() == 2 else real.unsqueeze(1))

    @torch.no_grad()
    def targets(self, model: Any, inputs: tuple[Any, ...], view: View, keep_layers: bool) -> KnownTargets:
        teacher, extra = model.teacher, model.config.num_extra_tokens
        tokens = model.teacher_view(inputs, view.tokens)
        positions = None if teacher.positions is None else teacher.positions(tokens)
        taps = model.targets(None, True, in_front=extra) if keep_layers else None
        view = view._replace(tokens=tokens, positions=positions, kept_layers=None)
        taught = model.student_view(view, encoder=teacher.encoder, targets=taps)
        in_front = taught.last_hidden_state[:, :extra].float()
        return KnownTargets(taught.in_place.float(), in_front, None if taps is None else taps.layers)

    def terms(self, model: Any, regression: LossTerm, targets: KnownTargets, step: Step) -> list[LossTerm]:
        front = step.student.last_hidden_state[:, : model.config.num_extra_tokens]
        both = ((front, regression.predictions), (targets.in_front, regression.targets))
        predictions, compared = (torch.cat((extra.flatten(0, 1), behind)) for extra, behind in both)
        return [regression._replace(predictions=predictions, targets=compared)]


class OtherModelTarget(LayersTarget):
    """What another encoder, which reads everything, makes of what is hidden."""

    term = "distillation"
    has_teacher = False
    needs: ClassVar = {
        "cls_loss_weight": 0, "ema_scope": "frozen", "target_tap": "end_of_block", "teacher_window": None,
    }  # fmt: skip

    def check(self, objective: Any) -> None:
        super().check(objective)
        if objective.teacher_config is None:
            raise ValueError(
                "objective.teacher = null: must be the folder, or the name on the Hub, of an encoder with "
                f"objective.target = {objective.target!r}."
            )

    def blocks(self, objective: Any, own: int) -> int:
        count: int = objective.teacher_config["num_hidden_layers"]
        return count

    def numbers(self, objective: Any, embeddings: Any) -> int | None:
        width: int = objective.teacher_config["hidden_size"]
        return width

    def targets(self, model: Any, inputs: tuple[Any, ...], view: View, keep_layers: bool) -> Any:
        given = {model.main_input_name: inputs[0]}
        if view.attention_mask is not None:
            given["attention_mask"] = view.attention_mask
        real = view.tokens.real
        return model.teacher(
            given, view.tokens.values.shape[1], lambda in_front: model.targets(real, keep_layers, in_front)
        )


TARGET_KINDS: dict[str, LayersTarget] = {
    "layers": LayersTarget(),
    "input": InputTarget(),
    "same_view": SameViewTarget(),
    "other_model": OtherModelTarget(),
}
