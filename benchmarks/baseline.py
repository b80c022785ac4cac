"""What step.py compares with: data2vec written plainly, with stock `transformers` modules in a stock `Trainer`.

Student, teacher and targets cost what the original's do: one pass of the front end for both, the head on masked
positions alone. data2vec 2.0 is not in `transformers`: there it is this package's model, with the attention that
`transformers` chooses and convolutions in the layout of its speech encoders (`Conv1d`, transposes around norms).
"""

import copy
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Data2VecAudioModel,
    Data2VecTextModel,
    Data2VecVisionModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from data2vec.modeling import ObjectiveConfig
from data2vec.modeling.conv import TokenConv
from data2vec.modeling.embed_audio import AudioEmbeddings
from data2vec.modeling.encoder import Data2Vec2Encoder
from data2vec.modeling.tokens import Tokens
from data2vec.pretraining.arguments import Run
from data2vec.pretraining.modalities.build import PretrainingData


class Plain(nn.Module):
    """A student, a teacher that began as a copy of it, and a head."""

    def __init__(self, config: Any, objective: ObjectiveConfig, student: nn.Module, teacher: nn.Module):
        super().__init__()
        self.config, self.objective = config, objective
        self.student, self.teacher = student, copy.deepcopy(teacher).requires_grad_(False)
        dim, wide = config.hidden_size, 2 * config.hidden_size
        one, two = nn.Linear(dim, dim), nn.Sequential(nn.Linear(dim, wide), nn.GELU(), nn.Linear(wide, dim))
        self.head = one if objective.head_layers == 1 else two
        self.taps: list[Tensor] = []

    def tap(self, modules: list[nn.Module]) -> None:
        for module in modules:
            module.register_forward_hook(lambda _module, _inputs, output: self.taps.append(output))

    def train(self, mode: bool = True) -> "Plain":
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, encoded: Tensor, taps: list[Tensor], masked: Tensor) -> dict[str, Tensor]:
        objective = self.objective
        layers = [tap.float() for tap in taps[-objective.top_k_layers :]]
        if objective.target_layer_norm == "instance":
            layers = [F.instance_norm(layer.transpose(1, 2)).transpose(1, 2) for layer in layers]
        elif objective.target_layer_norm == "layer":
            layers = [F.layer_norm(layer, layer.shape[-1:]) for layer in layers]
        targets = sum(layers) / len(layers)
        if objective.target_norm == "layer":
            targets = F.layer_norm(targets, targets.shape[-1:])
        predictions, targets = self.head(encoded[masked]).float(), targets[masked]
        if objective.loss_beta:
            loss = F.smooth_l1_loss(predictions, targets, reduction="none", beta=objective.loss_beta)
        else:
            loss = F.mse_loss(predictions, targets, reduction="none")
        return {"loss": loss.sum() * objective.scale_for(targets.shape[-1]) / len(targets)}


class PlainAudio(Plain):
    def __init__(self, config: Any, objective: ObjectiveConfig):
        student = Data2VecAudioModel(config)
        super().__init__(config, objective, student, student.encoder)
        self.tap([layer.feed_forward for layer in self.teacher.layers])

    def forward(self, input_values: Tensor, masked: Tensor, mask_counts: Any = None) -> dict[str, Tensor]:
        features = self.student.feature_extractor(input_values).transpose(1, 2)
        hidden, _ = self.student.feature_projection(features)
        with torch.no_grad():
            self.taps.clear()
            self.teacher(hidden)
        hidden = self.student._mask_hidden_states(hidden, mask_time_indices=masked)
        return self.loss(self.student.encoder(hidden).last_hidden_state, self.taps, masked)


class PlainText(Plain):
    def __init__(self, config: Any, objective: ObjectiveConfig):
        student = Data2VecTextModel(config, add_pooling_layer=False)
        super().__init__(config, objective, student, student)
        self.tap([layer.output.dense for layer in self.teacher.encoder.layer])

    def forward(self, input_ids: Tensor, masked: Tensor, mask_counts: Any = None) -> dict[str, Tensor]:
        with torch.no_grad():
            self.taps.clear()
            self.teacher(input_ids)
        read = input_ids.masked_fill(masked, self.config.mask_token_id)
        return self.loss(self.student(read).last_hidden_state, self.taps, masked)


class PlainVision(Plain):
    def __init__(self, config: Any, objective: ObjectiveConfig):
        student = Data2VecVisionModel(config, add_pooling_layer=False)
        super().__init__(config, objective, student, student)

    def forward(self, pixel_values: Tensor, masked: Tensor, mask_counts: Any = None) -> dict[str, Tensor]:
        with torch.no_grad():
            states = self.teacher(pixel_values, output_hidden_states=True).hidden_states[1:]
        encoded = self.student(pixel_values, bool_masked_pos=masked.long()).last_hidden_state
        return self.loss(encoded[:, 1:], [state[:, 1:] for state in states], masked)


PLAIN = {"data2vec-audio": PlainAudio, "data2vec-text": PlainText, "data2vec-vision": PlainVision}


class MoveTeacher(TrainerCallback):
    """teacher <- decay * teacher + (1 - decay) * student, tensor by tensor."""

    def __init__(self, teacher: nn.Module, student: nn.Module, objective: ObjectiveConfig):
        self.objective = objective
        weights = dict(student.named_parameters())
        missing = [name for name, _ in teacher.named_parameters() if name not in weights]
        inner = "encoder." if missing else ""  # where the teacher is the student's encoder alone
        self.pairs = [(value, weights[inner + name]) for name, value in teacher.named_parameters()]

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        decay = self.objective.decay_at(state.global_step + 1)
        for teacher, student in self.pairs:
            teacher.mul_(decay).add_(student, alpha=1 - decay)


def plain_trainer(run: Run, data: PretrainingData) -> Trainer:
    """A `Trainer` with its own optimizer and precision: AdamW, and autocast where the run is in bf16."""
    config, objective = run.config, run.objective
    if objective.views is None:
        _as_pretraining_sets_it(config)
        model: Any = PLAIN[config.model_type](config, objective)
        student = model.student
    else:
        model = plain_attention(plain_convolutions(run.model_class(config)))
        student = model.base_model
    ours = run.training
    args = TrainingArguments(
        output_dir=str(ours.output_dir),
        max_steps=ours.max_steps,
        per_device_train_batch_size=ours.per_device_train_batch_size,
        bf16=ours.bf16,
        use_cpu=ours.use_cpu,
        learning_rate=ours.learning_rate,
        weight_decay=ours.weight_decay,
        adam_beta1=ours.adam_beta1,
        adam_beta2=ours.adam_beta2,
        adam_epsilon=ours.adam_epsilon,
        max_grad_norm=ours.max_grad_norm,
        warmup_steps=1000,
        logging_steps=ours.logging_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
    )

    class Batches(Trainer):
        def get_train_dataloader(self) -> Any:
            loader = torch.utils.data.DataLoader(data.train_dataset, **data.loader_arguments())
            return self.accelerator.prepare(loader)

    trainer = Batches(model=model, args=args, train_dataset=data.train_dataset, data_collator=data.collator)
    trainer.add_callback(MoveTeacher(model.teacher, student, objective))
    return trainer


def _as_pretraining_sets_it(config: Any) -> None:
    if config.model_type == "data2vec-vision":
        config.use_mask_token, config.use_mean_pooling = True, False
    if config.model_type == "data2vec-text":
        config.mask_token_id = config.vocab_size - 1


def plain_attention(model: nn.Module) -> nn.Module:
    """Attention through `transformers`' interface, everywhere."""
    for module in model.modules():
        if isinstance(module, Data2Vec2Encoder):
            module.computes_explicitly = lambda hidden: False
    return model


def plain_convolutions(model: nn.Module) -> nn.Module:
    """Convolutions read (rows, channels, time) in that order in memory, as `nn.Conv1d` does, norms transpose."""
    for module in model.modules():
        if isinstance(module, TokenConv):
            module.forward = types.MethodType(_plain_token_conv, module)
        elif isinstance(module, AudioEmbeddings):
            module.forward = types.MethodType(_plain_audio_embeddings, module)
    return model


def _plain_token_conv(self: Any, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    height, width = (1, *grid)[-2:]
    planes = tokens.transpose(1, 2).contiguous()  # (rows, dim, time)
    if len(grid) == 1:
        conv = self.conv
        planes = F.conv1d(planes, conv.weight.squeeze(2), conv.bias, padding=conv.padding[1], groups=conv.groups)
        planes = planes[..., :width]
    else:
        planes = self.conv(planes.unflatten(2, (height, width)))[..., :height, :width].flatten(2)
    return F.gelu(self.norm(planes.transpose(1, 2)).transpose(1, 2)).transpose(1, 2)


def _plain_audio_embeddings(self: Any, input_values: Tensor) -> Tokens:
    planes = input_values.unsqueeze(1)
    weights = [self.first_conv.weight.unsqueeze(1), *(conv.weight.squeeze(2) for conv in self.convs)]
    for weight, stride, norm in zip(weights, self.num_frames.strides, self.conv_norms, strict=True):
        planes = F.conv1d(planes, weight, stride=stride)
        planes = F.gelu(norm(planes.transpose(1, 2)).transpose(1, 2))
    tokens = self.projection(self.layer_norm(planes.transpose(1, 2)))
    return Tokens(tokens, (tokens.shape[1],))
