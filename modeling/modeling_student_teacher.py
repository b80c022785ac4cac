"""The step of data2vec 2.0 and of the methods that follow it: student, teacher and decoder (arXiv 2212.07525).

A sample is embedded once and hidden in several ways (views). The student encodes what each view leaves visible, the
decoder fills in the rest, and the teacher, which sees everything, is run once for all views.

A method is a subclass, or a configuration, that says four things: what the student reads ([`student_view`]), what the
teacher reads ([`teacher_view`], `ema_scope`), where the loss is taken (`scored`), and its terms ([`loss_terms`]). What
is predicted need not be layers of a teacher, see `objective.target`.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .configuration_objective import ObjectiveConfig
from .decoder import SeenStates, build_decoder
from .ema import Teacher
from .encoder import Data2Vec2Encoder
from .gather import gather, per_view, scatter, scored_indices, select_visible
from .initialization import DefaultLinear
from .loss import LossTerm
from .masking_adaptive import Evidence
from .modeling_data2vec2 import Data2Vec2Model, Data2Vec2PreTrainedModel
from .modeling_pretraining import Data2VecForPreTrainingOutput, PreTrainingMixin
from .other_teacher import OtherTeacher
from .pretraining_step import Hidden, Step, Student, View
from .targets import TopKAverage, mean_over_time
from .tokens import Tokens


class Data2Vec2Teacher(Teacher):
    """The parts of an encoder that the teacher owns, parameters named as in the student's."""

    def __init__(self, config: PreTrainedConfig, model: type[Data2Vec2Model], own_embeddings: bool):
        super().__init__()
        self.embeddings = model.embeddings_class(config) if own_embeddings else None
        self.positions = model.positions_class(config) if model.positions_class is not None else None
        self.encoder = model.encoder_class(config)


class Data2Vec2ForPreTraining(PreTrainingMixin, Data2Vec2PreTrainedModel):
    """What all modalities share; a modality names its encoder and its inputs.

    `objective.ema_scope` says what the teacher averages: `"blocks"` (its positions, norm, prenet and extra tokens are
    copied from the student), `"encoder"` (these too, all behind the embeddings) or `"all"`; a `"frozen"` teacher has
    everything and averages nothing. Without embeddings of its own it reads the student's, without gradient and without
    dropout (the original leaves it on in text).

    Raises:
        ValueError: `config.objective` is invalid or does not fit the encoder.
    """

    base_class: type[Data2Vec2Model]
    ema_scopes = {"blocks": ("encoder.layers.",), "encoder": ("encoder.", "positions."), "all": ("",), "frozen": ()}
    chooses_masks = True
    head_linear: type[nn.Linear] = DefaultLinear  # in text the original starts the decoder's head like the encoder
    head_ratio = 2  # width inside the decoder's head, of its input's
    _auto_class = "AutoModelForPreTraining"

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.init_objective()
        objective = self.objective
        setattr(self, self.base_model_prefix, self.base_class(config))
        kind, head = objective.kind, (objective.head_layers, self.head_linear, self.head_ratio)
        numbers = kind.numbers(objective, self.base_model.embeddings)
        self.decoder = build_decoder(objective.decoder, config, *head, numbers) if kind.has_decoder else SeenStates()
        own_embeddings = objective.ema_scope == "frozen" or "embeddings.".startswith(
            self.ema_scopes[objective.ema_scope]
        )
        if objective.teacher_config is not None:
            self.teacher: Teacher = OtherTeacher(objective.teacher_config)
        else:
            self.teacher = Data2Vec2Teacher(config, self.base_class, own_embeddings) if kind.has_teacher else Teacher()
        self.post_init()
        self._keys_to_ignore_on_load_unexpected = []  # an encoder's, which knows no teacher
        self.post_init_teacher()

    @classmethod
    def check_objective(cls, config: PreTrainedConfig, objective: ObjectiveConfig) -> None:
        objective.check_model(config.num_hidden_layers, tuple(cls.ema_scopes), cls.chooses_masks)
        if objective.decoder is not None:
            objective.decoder.check_encoder(config)
            if objective.head_layers == 0:
                raise ValueError("objective.head_layers = 0: must be 1 or more behind a decoder.")
        objective.kind.check_embeddings(config.model_type, cls.base_class.embeddings_class)
        if objective.cls_loss_weight and objective.cls_pooling != "mean" and config.num_extra_tokens == 0:
            raise ValueError(
                f"objective.cls_loss_weight = {objective.cls_loss_weight}: must be 0 without an extra token, which "
                "predicts, or set num_extra_tokens to 1 or more, or objective.cls_pooling to 'mean'."
            )

    def reset_teacher(self) -> None:
        if self.objective.kind.has_teacher:
            super().reset_teacher()

    # ---- what the teacher reads ----

    @torch.no_grad()
    def teacher_view(self, inputs: tuple[Any, ...], tokens: Tokens) -> Tokens:
        """What the teacher reads, here everything: values of the teacher's dtype, without positions.

        Args:
            inputs: what the embeddings read.
            tokens: the student's embedding of it, of everything and without dropout.
        """
        own = self.teacher.embeddings
        read = tokens if own is None else own(*inputs)._replace(real=tokens.real)
        return read._replace(values=read.values.detach().to(next(self.teacher.parameters()).dtype))

    @torch.no_grad()
    def run_teacher(self, tokens: Tokens, keep_layers: bool = False) -> TopKAverage:
        """Targets from the blocks behind the prenet."""
        teacher = self.teacher
        targets = self.targets(tokens.real, keep_layers, in_front=self.config.num_extra_tokens)
        encoded = teacher.encoder(
            tokens.values,
            tokens.real,
            positions=None if teacher.positions is None else teacher.positions(tokens),
            targets=targets,
            window=self.objective.teacher_window,
            output_attentions=self.objective.masking.reads_attention,
        )
        if encoded.attentions is not None:
            targets.attended = attended(encoded.attentions[-1], tokens.real, self.config.num_extra_tokens)
        return targets

    def make_targets(self, inputs: tuple[Any, ...], tokens: Tokens, keep_layers: bool) -> TopKAverage:
        return self.run_teacher(self.teacher_view(inputs, tokens), keep_layers)

    # ---- what the student reads ----

    def student_positions(self, tokens: Tokens, hidden: Hidden) -> Tensor | None:
        """What is added to the student's tokens, which must not tell what is hidden; shaped as in [`View`]."""
        positions = self.base_model.positions
        if positions is None or not positions.depends_on_tokens:
            return None if positions is None else positions(tokens)
        rows = len(hidden.visible)
        values = per_view(tokens.values, rows).masked_fill(~hidden.visible.unsqueeze(-1), 0)
        return positions(Tokens(values, tokens.grid, None if tokens.real is None else per_view(tokens.real, rows)))

    def student_view(
        self,
        view: View,
        mask_noise: Tensor | None = None,
        encoder: Data2Vec2Encoder | None = None,
        targets: TopKAverage | None = None,
    ) -> Student:
        """Run the student on what it may see: the visible tokens alone where there is a decoder, which fills in the
        hidden ones; else all, with a mask token in place of each hidden one.

        Args:
            mask_noise: see [`PreTrainingOptions`].
            encoder, targets: of a teacher that reads the same, and where its blocks are added.
        """
        tokens, hidden, rows = view.tokens, view.hidden, len(view.hidden.visible)
        run: Any = encoder or self.base_model.encoder
        if not self.objective.drops_hidden:
            values = per_view(tokens.values, rows)
            real = None if tokens.real is None else per_view(tokens.real, rows)
            mask_token = self.decoder.hidden_values(values, tuple(values.shape), None, 0.0)
            values = torch.where(hidden.removed.unsqueeze(-1), mask_token, values)
            positions = None if view.positions is None else per_view(view.positions, rows)
            encoded = run(values, real, kept_layers=view.kept_layers, targets=targets, positions=positions)
            states = encoded.last_hidden_state
            return Student(states, real, states[:, self.config.num_extra_tokens :])

        where, real = select_visible(hidden.visible, view.mask_counts)
        if tokens.real is not None and self.objective.original_padding:
            padding_seen = per_view(tokens.real, rows).gather(1, where)  # (rows, kept)
            real = padding_seen if real is None else real & padding_seen
        positions = None if view.positions is None else gather(view.positions, where)
        picked = gather(tokens.values, where)  # (rows, kept, dim)
        encoded = run(picked, real, where, view.kept_layers, targets, positions=positions)
        states = encoded.last_hidden_state  # (rows, extra + kept, dim)
        behind = self.decoder.enter(states[:, self.config.num_extra_tokens :])
        shape = (*hidden.visible.shape, states.shape[-1])
        filler = self.decoder.hidden_values(behind, shape, mask_noise, self.objective.mask_noise_std)
        return Student(states, real, scatter(behind, hidden.visible, filler * hidden.removed.unsqueeze(-1)))

    # ---- what is compared ----

    def loss_terms(self, regression: LossTerm, step: Step) -> list[LossTerm]:
        """The terms of the loss, the same in each batch: the regression at scored positions, then what a method adds.

        Args:
            regression: see [`regression_term`].
        """
        objective = self.objective
        if not objective.cls_loss_weight:
            return [regression]
        extra, states = self.config.num_extra_tokens, step.student.last_hidden_state
        if objective.cls_pooling == "last_token":
            predictions = states[:, extra - 1]
        elif objective.cls_pooling == "tokens":
            predictions = states[:, :extra].mean(1)
        else:
            predictions = mean_over_time(states[:, extra:], step.student.real)
        real = None if objective.original_padding else step.tokens.real
        targets = per_view(mean_over_time(step.all_targets, real), len(states))
        return [regression, LossTerm("utterance", predictions, targets, objective.cls_loss_weight)]

    # ---- the step ----

    def _pretrain(
        self,
        inputs: tuple[Any, ...],
        attention_mask: Tensor | None,
        masked: Tensor | None,
        scored: Tensor | None = None,
        mask_noise: Tensor | None = None,
        kept_layers: list[bool] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_teacher_layers: bool = False,
        output_decoder_states: bool = False,
        mask_counts: tuple[int, int, int] | None = None,
        mask_candidates: Tensor | None = None,
    ) -> Data2VecForPreTrainingOutput:
        # 1. Embed everything, once; what is hidden from the student
        tokens = self.base_model.embed(inputs, attention_mask)
        if masked is None:
            masked, mask_candidates = self._draw_masks(tokens)
        view = self._view(tokens, masked, kept_layers, mask_counts, attention_mask)

        # 2. Teacher: what is to be predicted, and by it, perhaps, what else to hide
        kind = self.objective.kind
        targets = kind.targets(self, inputs, view, output_teacher_layers)
        all_targets = targets.result()
        if mask_candidates is not None:
            masked = self._choose_masks(view, all_targets, targets.attended, mask_candidates)
            view = self._view(tokens, masked, kept_layers, mask_counts)
        hidden = view.hidden
        if scored is None:
            scored = self.objective.scored_positions(masked, None if hidden.real is None else tokens.real)

        # 3. Student and decoder
        student, decoded = self._fill_in(view, mask_noise)

        # 4. Predictions where the loss is taken, and its terms
        indices = scored_indices(scored, mask_counts)
        predictions = self.decoder.projection(decoded.flatten(0, 1).index_select(0, indices))  # (scored, dim)
        step = Step(inputs, tokens, hidden, student, decoded, all_targets, indices)
        terms = kind.terms(self, self.regression_term(predictions, all_targets, scored, indices), targets, step)
        first_views = all_targets[:: len(all_targets) // len(masked)]
        output = self.compare(terms, first_views, masked, tokens, num_items_in_batch, len(indices))
        for term in terms:
            if term.name == "utterance":
                output.cls_predictions, output.cls_targets = term.predictions, term.targets
        output.last_hidden_state = student.last_hidden_state
        output.teacher_layers = targets.layers
        if output_decoder_states:
            output.decoder_input, output.decoder_output = student.in_place, self.decoder.projection(decoded)
        return output

    def _fill_in(self, view: View, mask_noise: Tensor | None = None) -> tuple[Student, Tensor]:
        """Student and decoder: the latter's output is `(rows, time, width)`."""
        student = self.student_view(view, mask_noise)
        in_front = student.last_hidden_state[:, : self.config.num_extra_tokens]
        in_place = Tokens(student.in_place, view.tokens.grid, view.hidden.real)
        return student, self.decoder(in_place, view.positions, in_front)

    # ---- masks ----

    def _draw_masks(self, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        """Masks for a batch that came without, and where they are chosen the candidates."""
        seeds, masking = self.sample_seeds(len(tokens.values)), self.objective.masking
        where = {"maskable": tokens.real, "coordinates": tokens.coordinates}
        masked = self.objective.draw_masks(tokens.grid, seeds, **where).to(tokens.values.device)
        candidates = masking.draw_candidates(lambda every: masking.sample(tokens.grid, every, **where), seeds)
        return masked, None if candidates is None else candidates.to(masked.device)

    def _choose_masks(self, view: View, all_targets: Tensor, attended: Tensor | None, candidates: Tensor) -> Tensor:
        """One of bool `(batch, views, candidates, time)` for each view, shaped as `masked`."""
        real = view.tokens.real
        mean = mean_over_time(all_targets, None if self.objective.original_padding else real)
        error = partial(self._error, view, all_targets, candidates[:, 0, 0])
        evidence = Evidence(all_targets, mean, attended, error)
        masking: Any = self.objective.masking
        chosen: Tensor = masking.choose(candidates, evidence)
        return chosen if self.objective.views is not None else chosen.squeeze(1)

    @torch.no_grad()
    def _error(self, view: View, all_targets: Tensor, hidden: Tensor) -> Tensor:
        """The student's squared error where bool `hidden` `(batch, time)` hides, its mean elsewhere; in fp32."""
        views = None if self.objective.views is None else 1
        masked = hidden if views is None else hidden.unsqueeze(1)
        view = self._view(view.tokens, masked, view.kept_layers, view.mask_counts)
        predictions = self.decoder.projection(self._fill_in(view)[1]).float()  # (batch, time, dim)
        errors = (predictions - all_targets).square().mean(-1) * hidden
        return torch.where(hidden, errors, errors.sum(-1, keepdim=True) / hidden.sum(-1, keepdim=True).clamp(min=1))

    def _view(
        self,
        tokens: Tokens,
        masked: Tensor,
        kept_layers: list[bool] | None,
        mask_counts: tuple[int, int, int] | None,
        attention_mask: Tensor | None = None,
    ) -> View:
        """What the student reads where `masked` hides: bool `(batch, time)`, or `(batch, views, time)`."""
        batch, time = tokens.values.shape[:2]
        views = self.objective.views is not None
        if masked.dtype != torch.bool or masked.dim() != 2 + views or (len(masked), masked.shape[-1]) != (batch, time):
            axes, here = ("batch, time", f"{batch}, {time}")
            if views:
                axes, here = ("batch, views, time", f"{batch}, views, {time}")
            raise ValueError(f"masked is {masked.dtype} {tuple(masked.shape)}: pass bool ({axes}), here ({here}).")
        removed, real = masked.flatten(0, -2), None  # (rows, time)
        if tokens.real is not None and not self.objective.original_padding:
            real = per_view(tokens.real, len(removed))
        hidden = Hidden(removed, ~removed if real is None else ~removed & real, real)
        positions = self.student_positions(tokens, hidden)
        return View(tokens, positions, hidden, kept_layers, mask_counts, attention_mask)


def attended(weights: Tensor, real: Tensor | None, extra: int) -> Tensor:
    """How much each token is attended to, by the extra tokens or, without any, by all real ones.

    Args:
        weights: of a block, `(batch, heads, extra + time, extra + time)`.
        real: bool `(batch, time)`, `None` where nothing is padded.

    Returns:
        `(batch, time)` fp32, in the mean over heads and readers.
    """
    weights = weights.float().mean(1)  # (batch, extra + time, extra + time)
    if extra:
        return weights[:, :extra, extra:].mean(1)
    return mean_over_time(weights, real)
