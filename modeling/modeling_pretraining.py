"""What every `...ForPreTraining` model does alike: hold the objective, own the teacher, compare, report.

A method adds what the student reads, what the teacher reads, where the loss is taken and its terms. The teacher is a
sub-module, so it is saved, moved and sharded with the rest; it has no gradient, stays in eval mode and in fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import ModelOutput

from .configuration_objective import ObjectiveConfig, objective_class_of
from .ema import Teacher, copy_student, ema_update
from .gather import at_scored
from .loss import LossTerm, regression_loss, spread, token_loss
from .masking import mask_seeds
from .ranges import check_ranges
from .targets import BlockFeatures, TopKAverage
from .tokens import Tokens


ALWAYS_GIVEN: Any = None  # `ModelOutput` wants a default


@dataclass
class Data2VecForPreTrainingOutput(ModelOutput):
    """
    Args:
        loss: scalar fp32, the mean over scored positions (or the sum over `num_items_in_batch`, if that was given) of
            all terms with their weights.
        predictions, targets: `(scored positions, dim)`, rows in row-major order of what is scored (`masked`, if not
            said); with a target of the same view the extra tokens' come first.
        masked: bool, True = hidden from the student; `(batch, time)`, or with views `(batch, views, time)`.
        real: bool `(batch, time)`, True on real steps; `None` if nothing is padded.
        target_std, prediction_std: scalar fp32, see [`loss.spread`].
        all_targets: `(batch, time, dim)` fp32, the targets of every step.
        cls_predictions, cls_targets: `(batch * views, dim)`, with `objective.cls_loss_weight` above 0.
        loss_terms: each term's mean, scalar fp32 without gradient and without its weight, by name.
        tokens: the student's embedding of the whole input, without gradient: what its local encoder makes of it.
        last_hidden_state: the student's; `(batch, time, dim)` in data2vec 1; in 2.0 `(batch * views, extra + kept,
            dim)`, what it saw in order.
        teacher_layers: the tap of every block, `(batch, time, dim)` each, with `output_teacher_layers=True`.
        decoder_input: `(batch * views, time, dim)`, with `output_decoder_states=True`.
        decoder_output: `(batch * views, time, dim)`, predictions at all positions, with the same.
    """

    loss: Tensor = ALWAYS_GIVEN
    predictions: Tensor = ALWAYS_GIVEN
    targets: Tensor = ALWAYS_GIVEN
    masked: Tensor = ALWAYS_GIVEN
    real: Tensor | None = None
    target_std: Tensor = ALWAYS_GIVEN
    prediction_std: Tensor = ALWAYS_GIVEN
    all_targets: Tensor = ALWAYS_GIVEN
    cls_predictions: Tensor | None = None
    cls_targets: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    tokens: Tokens | None = None
    last_hidden_state: Tensor | None = None
    teacher_layers: list[Tensor] | None = None
    decoder_input: Tensor | None = None
    decoder_output: Tensor | None = None


class PreTrainingMixin(PreTrainedModel):
    """The part of a pretraining model that knows no modality.

    A subclass calls `init_objective` before it builds its modules and `post_init_teacher` after them, has a
    `base_model` (the student's encoder) and a `teacher` whose parameters are named as in `base_model`.
    """

    default_objective: dict[str, Any]  # the published base recipe of the modality
    ema_scopes: dict[str, tuple[str, ...]]  # scope -> prefixes of the teacher's tensors that are averaged
    chooses_masks = False  # True: a step may choose among masks, see `masking_adaptive`
    config_fields: tuple[str, ...] = ()  # of the configuration, beside those that its class declares
    objective: ObjectiveConfig
    teacher: Teacher

    # the Trainer passes `num_items_in_batch` and leaves the division to the model
    accepts_loss_kwargs = True
    _keep_in_fp32_modules_strict = {"teacher"}

    def init_objective(self) -> None:
        """Read `config.objective`, or write the default there so that it is saved; check it against the encoder."""
        check_ranges(self.config)
        stored = getattr(self.config, "objective", None)
        values = self.default_objective if stored is None else stored
        self.objective = objective_class_of(self.config).from_dict(values)
        self.check_objective(self.config, self.objective)
        self.config.objective = self.objective.to_dict()

    @classmethod
    def check_objective(cls, config: PreTrainedConfig, objective: ObjectiveConfig) -> None:
        """Raise a ValueError where a model of this class with such an encoder cannot be trained with the objective."""
        objective.check_model(config.num_hidden_layers, tuple(cls.ema_scopes), cls.chooses_masks)
        for name, stock in (("views", None), ("decoder", None), ("cls_loss_weight", 0), ("target", "layers")):
            if getattr(objective, name) != stock:
                raise ValueError(
                    f"objective.{name} = {getattr(objective, name)!r} is data2vec 2.0's: leave it out with "
                    f"model type {config.model_type!r}."
                )

    def post_init_teacher(self) -> None:
        self.teacher.requires_grad_(False).float()  # it may have been built in another default dtype
        if all(
            weight.device.type != "meta" for weight in self.teacher.parameters()
        ):  # else `from_pretrained` fills it
            self.reset_teacher()

    def reset_teacher(self) -> None:
        """Restart the teacher as a copy of the student."""
        copy_student(self.teacher, self.base_model)

    @classmethod
    def is_custom_code(cls) -> bool:
        """No, so that what a checkpoint lacks starts as in `__init__`.

        In custom code `transformers` passes over modules without tensors of their own, which initialise their parts.
        """
        return False

    def update_teacher(self, decay: float, **kwargs: Any) -> None:
        """Move the teacher once: to be called after each optimizer step, with `objective.decay_at(step)`.

        What `objective.ema_scope` names is averaged, the rest of the teacher is copied from the student; a frozen
        teacher stays. The keyword arguments go to [`ema.ema_update`].
        """
        scope = self.objective.ema_scope
        if scope != "frozen":
            ema_update(self.teacher, self.base_model, decay, self.ema_scopes[scope], **kwargs)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in `transformers`, with the teacher's: its tokens stay, the new ones start as the student's."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        student = dict(self.base_model.named_modules())
        for name, own in self.teacher.named_modules():
            if isinstance(own, nn.Embedding) and own.weight.shape != student[name].weight.shape:
                weight = student[name].weight.detach().to(own.weight, copy=True)
                kept = min(len(weight), len(own.weight))
                weight[:kept] = own.weight[:kept]
                own.weight, own.num_embeddings = nn.Parameter(weight, requires_grad=False), len(weight)
        return embeddings

    @property
    def parts(self) -> dict[str, "PreTrainingMixin"]:
        """The models that are trained, by modality; one without a name where there is one modality."""
        return {"": self}

    def at_step(self, batch: dict[str, Any], step: int | None) -> dict[str, Any]:
        """A batch of the collator with what depends on the update, so that a loader may run ahead of it.

        Args:
            step: updates that were made before; `None` in evaluation, which is the same at every step.
        """
        return batch

    def rate_factor(self, name: str) -> float:
        """At what share of the learning rate the parameter of this name learns."""
        return 1.0

    def train(self, mode: bool = True) -> "PreTrainingMixin":
        super().train(mode)
        self.teacher.eval()
        return self

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        # A plain encoder was loaded: its teacher is not missing, it starts as the student. So does what both lack.
        super()._adjust_missing_and_unexpected_keys(loading_info)
        self.teacher.requires_grad_(False)  # what was loaded are new parameters, which ask for gradients
        own, student = self.teacher.state_dict(), self.base_model.state_dict()
        missing = {name for name in own if f"teacher.{name}" in loading_info.missing_keys}
        new = {name for name in own if f"{self.base_model_prefix}.{name}" in loading_info.missing_keys}
        if missing == own.keys():
            self.reset_teacher()
        elif missing <= new:
            for name in missing:
                own[name].copy_(student[name])
        else:
            raise ValueError(
                f"The checkpoint holds only a part of the teacher: {len(missing)} of {len(own)} tensors are missing, "
                f"'teacher.{min(missing)}' among them. Use a complete checkpoint, or remove every 'teacher.' tensor "
                "from it to start the teacher as a copy of the student."
            )
        loading_info.missing_keys = loading_info.missing_keys - {f"teacher.{name}" for name in missing}

    def sample_masked(self, grid: tuple[int, ...], batch: int, lengths: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Masks for a batch that came without, from torch's generator: `(batch, time)` or `(batch, views, time)`."""
        return self.objective.draw_masks(grid, self.sample_seeds(batch), lengths, **kwargs)

    def sample_seeds(self, batch: int) -> Tensor:
        """Seeds of masks from torch's generator: `(batch, views)` int64."""
        return mask_seeds(int(torch.randint(2**31, ())), 0, range(batch), self.objective.views or 1)

    def make_targets(self, inputs: tuple[Any, ...], tokens: Tokens, keep_layers: bool) -> TopKAverage:
        """What a teacher that reads everything says, without gradient.

        Args:
            inputs: what the embeddings read, whole.
            tokens: the student's embedding of it, of everything; in text of data2vec 1 `values` are the ids.
            keep_layers: also keep the taps of all blocks.
        """
        raise NotImplementedError

    def targets(self, real: Tensor | None, keep_layers: bool, in_front: int = 0) -> TopKAverage:
        """Where the teacher's blocks are to be added, see [`targets.TopKAverage`]."""
        blocks = self.objective.kind.blocks(self.objective, self.config.num_hidden_layers)
        return TopKAverage(self.objective, blocks, real, in_front, keep_layers)

    def add_targets(
        self, targets: TopKAverage, layers: nn.ModuleList, hidden: Tensor, **block_inputs: Any
    ) -> TopKAverage:
        """Run the teacher's blocks, each of which returns [`BlockFeatures`], and add these to the targets."""
        for layer in layers:
            block: BlockFeatures = layer(hidden, **block_inputs)
            targets.add(block)
            if targets.complete:
                break
            hidden = block.end_of_block
        return targets

    def summed_loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Of `(positions, dim)`, summed over positions: scalar fp32, see [`loss.regression_loss`]; of ids, the
        cross-entropy."""
        objective = self.objective
        if not targets.is_floating_point():
            return token_loss(predictions, targets)
        return regression_loss(predictions, targets, objective.loss_beta, objective.scale_for(targets.shape[1]))

    def regression_term(self, predictions: Tensor, all_targets: Tensor, scored: Tensor, indices: Tensor) -> LossTerm:
        """What the student predicts of its teacher, at every scored position.

        Args:
            predictions: `(scored positions, dim)`, rows in row-major order of `scored`.
            all_targets: `(batch, time, dim)` fp32, without gradient, which all views of a sample share; or one for
                each view, `(rows, time, dim)`.
            scored: bool, where the loss is taken: `(batch, time)` or `(batch, views, time)`.
            indices: `(scored positions,)` long, where `scored`, flattened, is True, see [`gather.scored_indices`].
        """
        targets = at_scored(all_targets, indices, scored.numel() // all_targets.shape[1])  # (scored positions, dim)
        return LossTerm(self.objective.kind.term, predictions, targets, self.objective.regression_weight)

    def compare(
        self,
        terms: Sequence[LossTerm],
        all_targets: Tensor,
        masked: Tensor,
        tokens: Tokens,
        num_items_in_batch: Tensor | int | None,
        scored: int | None = None,
    ) -> Data2VecForPreTrainingOutput:
        """Loss and spreads of one batch.

        Args:
            terms: of the loss; the first is that of the scored positions, over whose number the loss is a mean.
            all_targets: `(batch, time, dim)` fp32, without gradient.
            masked: bool, what was hidden: `(batch, time)` or `(batch, views, time)`.
            tokens: the student's embedding of the whole input.
            num_items_in_batch: scored positions of the whole effective batch; `None` takes this batch's.
            scored: those of this batch, where they are not the first term's positions.
        """
        predictions, targets = terms[0].predictions, terms[0].targets
        scored, means, parts = len(targets) if scored is None else scored, {}, []
        for term in terms:
            summed, count = (
                (term.summed or self.summed_loss)(term.predictions, term.targets),
                max(len(term.targets), 1),
            )
            # the total is divided by scored positions, so that the mean of a term has to count once for each
            parts.append(term.weight * summed * (scored / count))
            means[term.name] = summed.detach() / count
        total = torch.stack(parts).sum()
        return Data2VecForPreTrainingOutput(
            loss=total / (max(scored, 1) if num_items_in_batch is None else num_items_in_batch),
            predictions=predictions,
            targets=targets,
            masked=masked,
            real=tokens.real,
            target_std=spread(targets),
            prediction_std=spread(predictions),
            all_targets=all_targets,
            loss_terms=means,
            tokens=tokens._replace(values=tokens.values.detach(), streams=None),
        )

    def save_encoder(self, save_directory: str, **kwargs: Any) -> None:
        """Save the student's encoder alone: a folder that the Auto classes open without this package.

        That of data2vec 2.0 carries its code, which needs `trust_remote_code=True` there.
        """
        self.base_model.save_pretrained(save_directory, **kwargs)
