"""`Task`: all that the shared runner asks of image classification, speech recognition, GLUE and audio classification.

To add a task: its two argument dataclasses, a `Task`, a script of a few lines (see run_image_classification.py), a
recipe.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalPrediction

from ..pretraining.console.libraries import new_weights
from ..pretraining.data.arguments import CheckedArguments
from ..pretraining.data.modality import Modality
from ..pretraining.modalities.build import modality_of
from .arguments import FineTuneRun
from .data_arguments import FineTuneDataArguments
from .examples import Examples


Arguments = TypeVar("Arguments", bound=CheckedArguments)
Data = TypeVar("Data", bound=FineTuneDataArguments)
Collate = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
VALIDATION = "validation"  # the split that checkpoints are chosen on


@dataclass
class TaskData:
    """Everything that a task knows once its data is open.

    Attributes:
        train: what is trained on, read with augmentation.
        evaluation: split -> examples, read plainly, in the order in which they are reported. Checkpoints are chosen on
            the one called `validation`, where there is one; the others choose nothing.
        collator: examples -> batch, of evaluation.
        train_collator: the same for training, with what mixes examples; `collator` by default.
        processor: saved beside the weights (image processor, feature extractor, tokenizer, CTC processor).
        label_names: the classes by number; empty where there are none.
        problem_type: of the configuration, see `transformers`.
        model_kwargs: fields of the configuration that follow from the data (`vocab_size` of a CTC head, ...).
        batch_cost: the most that a padded training batch may hold, rows * longest, in the unit of `train.lengths`;
            `None`: training.per_device_train_batch_size rows.
    """

    train: Examples
    evaluation: dict[str, Examples]
    collator: Collate
    processor: Any
    train_collator: Collate | None = None
    label_names: tuple[str, ...] = ()
    problem_type: str | None = None
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    batch_cost: int | None = None

    @property
    def validation(self) -> Examples | None:
        return self.evaluation.get(VALIDATION)


class Task(ABC, Generic[Arguments, Data]):
    """A task of one run.

    Attributes:
        name: as in messages and in results.json.
        script: the file in finetune/ that runs it; its help is in help_text.py.
        arguments_class, data_class: of a recipe's `task` and `data` sections.
        modalities, config_fields: what it reads, and what the configuration of an encoder for that has.
        auto_class: the Auto class that opens the result.
        main_metric: the one that checkpoints and sweeps are chosen by, of those that `compute_metrics` returns.
        greater_is_better: of it.
        weights: where the model's weights are from, in words; set by `build_model`.
    """

    name: ClassVar[str]
    script: ClassVar[str]
    arguments_class: ClassVar[type[CheckedArguments]]
    data_class: ClassVar[type[FineTuneDataArguments]]
    modalities: ClassVar[tuple[type[Modality[Any]], ...]]
    config_fields: ClassVar[tuple[str, ...]]
    auto_class: Any
    main_metric: str
    greater_is_better: bool = True

    def __init__(self, run: FineTuneRun):
        """Raises ValueError where the encoder reads something else."""
        reads = modality_of(run.config)
        if not issubclass(reads, self.modalities):
            raise ValueError(
                f"model.model_name_or_path = {run.checkpoint!r} is an encoder of {reads.name} "
                f"({run.config.model_type}), and {self.script} needs one of "
                f"{' or '.join(each.name for each in self.modalities)}: name such an encoder, or use another script."
            )
        lacking = [name for name in self.config_fields if not hasattr(run.config, name)]
        if lacking:
            raise ValueError(
                f"model.model_name_or_path = {run.checkpoint!r} is a {run.config.model_type}, which has no "
                f"{lacking[0]}: {self.script} needs an encoder like those of data2vec."
            )
        self.run, self.kind = run, reads.kind
        self.args: Arguments = run.task
        self.data_args: Data = run.data
        self.weights = "random"

    @abstractmethod
    def build_data(self) -> TaskData:
        """Open, number and check the data. Raises ValueError that names the field or the row, and the fix."""

    def build_model(self, data: TaskData) -> PreTrainedModel:
        """The encoder with the task's head, from the checkpoint or, `from_scratch`, with random weights.

        Raises:
            ValueError: the checkpoint's weights are not of the shapes that the recipe and the data ask for.
        """
        config: Any = self.run.config
        if data.label_names:
            config.id2label = dict(enumerate(data.label_names))
            config.label2id = {name: number for number, name in enumerate(data.label_names)}
        if data.problem_type is not None:
            config.problem_type = data.problem_type
        for name, value in data.model_kwargs.items():
            setattr(config, name, value)
        if self.run.from_scratch:
            return self.run.set_padding(self.auto_class.from_config(config, trust_remote_code=False))
        # fp32 whatever the checkpoint was saved in: training in half precision is autocast's, not the weights'
        try:
            how = {"dtype": torch.float32, "trust_remote_code": False}
            model, loading = self.auto_class.from_pretrained(
                self.run.checkpoint, config=config, output_loading_info=True, **how
            )
        except RuntimeError as error:
            raise ValueError(
                f"model.model_name_or_path = {self.run.checkpoint!r}: its weights do not fit this recipe's model, "
                "since its head is for other labels, or a field of model changes a shape. Start from the encoder that "
                f"it was made from, or remove the field. {error}"
            ) from error
        self.weights = new_weights(loading, str(self.run.checkpoint)) or f"all from {self.run.checkpoint}"
        return self.run.set_padding(model)

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Mean loss of a batch, and the model's output. By default the model's own loss."""
        outputs = model(**inputs)
        return outputs["loss"], outputs

    def frozen_at_first(self, model: PreTrainedModel) -> Iterable[nn.Parameter]:
        """What `training.freeze_encoder_steps` freezes: the encoder."""
        return model.base_model.parameters()

    def preprocess_logits(self, logits: Any, labels: Any) -> Any:
        """What is kept of a batch's outputs for `compute_metrics`; make it small where logits are large."""
        return logits

    @abstractmethod
    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        """Metrics of a whole split, as fractions of 1 where the papers print percent."""

    @abstractmethod
    def rows(self, predictions: Any, labels: Any, examples: Examples) -> list[dict[str, Any]]:
        """One dict per example, in order, for predictions/SPLIT.jsonl; see [`predictions`] for its keys."""

    def after_training(self, trainer: Any, data: TaskData) -> None:
        """What happens between training and the final evaluation, such as tuning a language model's weight."""

    def results_extra(self) -> dict[str, Any]:
        """What results.json says beside the metrics, such as how texts were decoded."""
        return {}

    def write_extra(self, folder: Path, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """More files about a split's rows, beside `SPLIT.jsonl` in `folder`, such as a confusion matrix."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in float64."""
    return torch.from_numpy(np.asarray(logits, dtype=np.float64)).softmax(-1).numpy()
