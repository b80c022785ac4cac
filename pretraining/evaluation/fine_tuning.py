"""Does the encoder help fine-tuning? The whole network is trained on a few labelled examples, then tested.

The same procedure for the pretrained and for the untrained encoder, the choice of the learning rate included.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from ..modalities.build import modality_of
from .probe import Batch, Collate, Example, Score, batches_of, draw_labelled, evaluating, pooled_features


@dataclass(frozen=True)
class FineTuneScore(Score):
    """Test accuracies over draws, at the learning rate with the best accuracy on validation examples."""

    learning_rate: float
    validation_accuracies: dict[float, float]  # learning rate -> accuracy, with the first draw
    validation_examples: int


class Classifier(nn.Module):
    """A copy of an encoder, its pooled output, batch norm without affine, linear layer."""

    def __init__(self, encoder: PreTrainedModel, num_labels: int):
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        # SpecAugment hides spans of speech with the mask embedding, which pretraining alone has met
        self.encoder.config.apply_spec_augment = False
        dim = encoder.config.hidden_size * modality_of(encoder.config).pooled_parts
        self.head = nn.Sequential(nn.BatchNorm1d(dim, affine=False), nn.Linear(dim, num_labels))
        self.to(encoder.device, torch.float32)

    def forward(self, batch: Batch) -> Tensor:
        return self.head(pooled_features(self.encoder, batch))  # (batch, labels)


def fine_tune_accuracy(
    encoder: PreTrainedModel,
    train: Sequence[Example],
    test: Sequence[Example],
    collate: Collate,
    num_labels: int,
    *,
    labels_per_class: int = 10,
    steps: int = 100,
    learning_rates: Sequence[float] = (1e-3, 3e-3),
    draws: int = 3,
    batch_size: int = 32,
    seed: int = 0,
) -> FineTuneScore:
    """Fine-tune a copy of the encoder from each draw of labelled examples; `encoder` itself is not touched.

    Args:
        train, test: labelled examples, as `collate` takes them.
        steps: optimizer steps of a run: AdamW, 10 % warm-up, then linear to 0, gradient norm clipped at 1.
        learning_rates: each is tried on the first draw; the one with the best accuracy on a held-out part of `train`
            is used for all draws. The test examples choose nothing.
        draws: how often `labels_per_class` examples of each class are drawn, as `probe.few_label_accuracy` draws them.

    Raises:
        ValueError: a class has too few examples for a draw, or fewer than 2 draws.
    """
    device = encoder.device
    labels = np.array([int(example["labels"]) for example in train])
    labelled, held_out = draw_labelled(labels, labels_per_class, draws, seed)
    validation = list(batches_of([train[i] for i in held_out], collate))
    tested = list(batches_of(test, collate))

    def run(learning_rate: float, number: int) -> tuple[float, float]:
        """Accuracy on the validation and on the test examples, trained on one draw."""
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(seed + number)
            model = Classifier(encoder, num_labels)
            _fit(model, [train[i] for i in labelled[number]], collate, steps, learning_rate, batch_size)
        return _accuracy(model, validation), _accuracy(model, tested)

    first = {learning_rate: run(learning_rate, 0) for learning_rate in learning_rates}
    best = max(first, key=lambda learning_rate: first[learning_rate][0])
    tests = [first[best][1], *(run(best, number)[1] for number in range(1, draws))]
    chosen_on = {learning_rate: accuracy for learning_rate, (accuracy, _) in first.items()}
    return FineTuneScore(tuple(tests), best, chosen_on, len(held_out))


def _fit(
    model: Classifier, examples: list[Example], collate: Collate, steps: int, learning_rate: float, batch_size: int
) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    size = min(batch_size, len(examples))
    order: list[int] = []
    for _ in range(steps):
        if len(order) < size:  # batches of one size: batch norm has no use for a last batch of one
            order += torch.randperm(len(examples)).tolist()
        chosen, order = order[:size], order[size:]
        batch = collate([examples[i] for i in chosen])
        loss = cross_entropy(model(batch), batch["labels"].to(model.encoder.device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _accuracy(model: Classifier, batches: Sequence[Batch]) -> float:
    with evaluating(model):
        right = [(model(batch).argmax(1).cpu() == batch["labels"]) for batch in batches]
    return float(torch.cat(right).double().mean())
