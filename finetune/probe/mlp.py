"""The probe of emotion2vec's evaluation: a small network on the frames of a frozen encoder (arXiv 2312.15185).

A linear layer to 256 units, ReLU, the mean over real frames, a linear layer to the classes. It is trained as in the
authors' `iemocap_downstream`: 100 epochs of RMSprop in batches of 128 clips, rate and momentum cycled by epoch.
What is tested is the epoch that is most accurate on a fifth of the training clips.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..metrics import unweighted_accuracy, weighted_f1


HIDDEN = 256
EPOCHS = 100
BATCH = 128
LOWEST_RATE, HIGHEST_RATE = 5e-4, 1e-3
HALF_CYCLE = 10  # epochs from the lowest to the highest learning rate
MOMENTUM = 0.9  # the upper end: CyclicLR lowers it to 0.8 while the learning rate rises
TRAIN_SHARE = 0.8

Frames = Sequence[np.ndarray]  # of every clip, (frames, dim); a vector (dim,) is one frame


@dataclass(frozen=True)
class MlpProbe:
    """Test scores, 0 to 1, and the accuracy on the fifth of the training clips that chose the epoch."""

    accuracy: float  # "weighted accuracy" in the paper
    unweighted_accuracy: float  # mean of the recalls of the classes that the test clips have
    weighted_f1: float
    validation_accuracy: float


class FrameMlp(nn.Module):
    """Frames `(frames, dim)` of clips, one after the other, and their numbers `(clips,)` -> `(clips, classes)`."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.hidden = nn.Linear(dim, HIDDEN)
        self.classifier = nn.Linear(HIDDEN, classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.hidden(frames).relu()
        return self.classifier(torch.segment_reduce(hidden, "mean", lengths=lengths))  # (clips, classes)


def mlp_probe(
    train_x: Frames,
    train_y: np.ndarray,
    test_x: Frames,
    test_y: np.ndarray,
    classes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> MlpProbe:
    """Train on the training clips and measure on the others; what is drawn at random follows from `seed`."""
    learn, held_out = train_test_split(np.arange(len(train_y)), train_size=TRAIN_SHARE, random_state=seed)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FrameMlp(np.asarray(train_x[0]).shape[-1], classes).to(device)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=LOWEST_RATE, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, LOWEST_RATE, HIGHEST_RATE, step_size_up=HALF_CYCLE)
    best, best_weights = -1.0, model.state_dict()
    for _ in range(EPOCHS):
        order = rng.permutation(learn)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            optimizer.zero_grad()
            logits = model(*_batch(train_x, chosen, device))
            cross_entropy(logits, torch.from_numpy(train_y[chosen]).to(device)).backward()
            optimizer.step()
        schedule.step()
        accuracy = float(np.mean(_predict(model, train_x, held_out, device) == train_y[held_out]))
        if accuracy > best:
            best, best_weights = accuracy, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    predicted = _predict(model, test_x, np.arange(len(test_y)), device)
    return MlpProbe(
        float(np.mean(predicted == test_y)),
        unweighted_accuracy(predicted, test_y),
        weighted_f1(predicted, test_y),
        best,
    )


def _batch(clips: Frames, chosen: np.ndarray, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Frames `(frames, dim)` of the chosen clips, and how many each has."""
    frames = [torch.from_numpy(np.atleast_2d(clips[i])) for i in chosen]
    lengths = torch.tensor([len(clip) for clip in frames])
    return torch.cat(frames).float().to(device), lengths.to(device)


@torch.no_grad()
def _predict(model: FrameMlp, clips: Frames, chosen: np.ndarray, device: torch.device | str) -> np.ndarray:
    """Class numbers of the chosen clips."""
    batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
    return np.concatenate([model(*_batch(clips, batch, device)).argmax(-1).cpu().numpy() for batch in batches])
