"""How good are an encoder's features? Measures without labels, as published, and all of them of a model in training.

Each is a function of features alone: `(samples, dim)`, or `(samples, views, dim)` for [`lidar`]. More is better, but
for [`alpha_req`].
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..data.examples import PretrainingDataset
from ..modalities.build import PretrainingData
from ..monitoring.metrics import Moments
from .probe import Example, batches_of, evaluating, extract_features, subset, teacher_encoder


# What `label_free_measures` returns -> which way is better.
DIRECTIONS = {
    "feature_rank_student": "maximize",
    "feature_rank_teacher": "maximize",
    "rankme_student": "maximize",
    "rankme_teacher": "maximize",
    "alpha_req_student": "minimize",
    "alpha_req_teacher": "minimize",
    "lidar": "maximize",
}
EXAMPLES = 1000  # whose features are compared
CLASSES, VIEWS, AT_ONCE = 200, 8, 16  # of LiDAR: examples, masked views of each at least, examples of a batch
LIDAR_RIDGE, ENTROPY_FLOOR = 1e-4, 1e-7  # the papers' delta and epsilon
NO_VARIANCE = 1e-10  # of the largest eigenvalue: directions in which features do not vary, but for rounding


# ---- of features ----


def rankme(features: np.ndarray) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885, equation 1): exp(-sum_k p_k log p_k), p_k = s_k / |s|_1 + 1e-7.

    s_k are the singular values of the features `(samples, dim)`, which are not centred.
    """
    return _entropy_rank(np.linalg.svd(features.astype(np.float64), compute_uv=False))


def spectrum_exponent(features: np.ndarray) -> float:
    """alpha of the power law l_k ~ k^-alpha of the eigenvalues of the features' covariance, `(samples, dim)`.

    The slope of the straight line through (log k, log l_k) by least squares, over all directions in which features
    vary: Agrawal et al. 2022 (alpha-ReQ, NeurIPS), section 3. NaN where fewer than two do.
    """
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    eigenvalues = np.linalg.svd(centred, compute_uv=False) ** 2 / max(len(features) - 1, 1)
    eigenvalues = eigenvalues[eigenvalues > NO_VARIANCE * eigenvalues[0]]
    if len(eigenvalues) < 2:
        return np.nan
    slope, _ = np.polyfit(np.log(np.arange(1, len(eigenvalues) + 1)), np.log(eigenvalues), 1)
    return float(-slope)


def alpha_req(features: np.ndarray) -> float:
    """|alpha - 1|: how far [`spectrum_exponent`] is from 1, near which features generalise best by alpha-ReQ; less is
    better."""
    return abs(spectrum_exponent(features) - 1)


def lidar(features: np.ndarray) -> float:
    """LiDAR (Thilak et al. 2024, arXiv 2312.04000): effective rank of the linear discriminant analysis of samples.

    Every sample is a class, and its views the members. With class means m_i, of mean m, and members x_ij:
    B = mean_i (m_i - m)(m_i - m)^T, W = mean_ij (x_ij - m_i)(x_ij - m_i)^T + 1e-4 I; the l_k are the eigenvalues of
    W^-1/2 B W^-1/2, p_k = l_k / |l|_1 + 1e-7, and LiDAR is exp(-sum_k p_k log p_k).

    Args:
        features: `(samples, views, dim)`.
    """
    features = features.astype(np.float64)
    means = features.mean(1)  # (samples, dim)
    between = means - means.mean(0)
    within = (features - means[:, None]).reshape(-1, features.shape[-1])
    scatter = within.T @ within / len(within) + LIDAR_RIDGE * np.eye(features.shape[-1])
    values, vectors = np.linalg.eigh(scatter)
    # the eigenvalues of W^-1/2 B W^-1/2 are the squared singular values of the whitened class means
    whitened = between @ (vectors / np.sqrt(values)) / np.sqrt(len(between))
    return _entropy_rank(np.linalg.svd(whitened, compute_uv=False) ** 2)


def _entropy_rank(values: np.ndarray) -> float:
    """exp(entropy) of values of 0 or more, as shares of their sum; NaN where all are 0."""
    if not values.sum() > 0:
        return np.nan
    share = values / values.sum() + ENTROPY_FLOOR
    return float(np.exp(-(share * np.log(share)).sum()))


# ---- of a model in training ----


def label_free_measures(model: Any, data: PretrainingData) -> dict[str, float]:
    """All of `DIRECTIONS`, of held-out examples (`data.eval_sources`) or, without, of training examples.

    Nothing where both are missing, as with a stream. `feature_rank_...` is RankMe of centred features, see
    [`metrics.Moments`]. Training goes on as if this had not been called.
    """
    dataset = data.eval_dataset or data.train_dataset
    if not isinstance(dataset, PretrainingDataset):
        return {}
    examples = subset(cast(Any, dataset), EXAMPLES, seed=0)
    batches = list(batches_of(examples, dataset.modality.collator(None, seed=0)))
    found = {}
    for name, encoder in (("student", model.base_model), ("teacher", teacher_encoder(model))):
        features = extract_features(encoder, batches)[0]  # (examples, dim)
        finite = np.isfinite(features).all()
        rank = Moments.of(torch.from_numpy(features), products=True).effective_rank().item()
        found[f"feature_rank_{name}"] = rank
        found[f"rankme_{name}"] = rankme(features) if finite else np.nan
        found[f"alpha_req_{name}"] = alpha_req(features) if finite else np.nan
    views = masked_views(model, dataset, subset(cast(Any, examples), CLASSES, seed=0))
    return found | {"lidar": lidar(views) if np.isfinite(views).all() else np.nan}


def masked_views(model: Any, dataset: PretrainingDataset, examples: Sequence[Example]) -> np.ndarray:
    """The student's features of several masked views of each example, `(examples, views, dim)`.

    The mean of what it made of the tokens that it read. The masks are drawn as in training, `VIEWS` or more of each.
    """
    collate = dataset.modality.collator(model.objective, seed=0)
    copies = -(-VIEWS // (model.objective.views or 1))
    rows: list[np.ndarray] = []
    device = next(model.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    # what a decoder draws for hidden positions is taken from torch's generator, which is training's
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(cuda):
        for start in range(0, len(examples), AT_ONCE):
            some = examples[start : start + AT_ONCE]
            batch = collate([{**example, "epoch": copy} for example in some for copy in range(copies)])
            moved = {name: part.to(device) if isinstance(part, Tensor) else part for name, part in batch.items()}
            pooled = pooled_view(model(**model.at_step(moved, None)), drops_hidden=model.objective.drops_hidden)
            rows.append(pooled.float().cpu().numpy().reshape(len(some), -1, pooled.shape[-1]))
    return np.concatenate(rows)


def pooled_view(output: Any, *, drops_hidden: bool) -> Tensor:
    """The mean over what the student read, `(batch * views, dim)`, of a step's output; its extra tokens left out."""
    masked = output.masked.flatten(0, -2)  # (rows, time)
    real = torch.ones_like(masked)
    if output.real is not None:
        real = output.real.repeat_interleave(len(masked) // len(output.real), dim=0)
    read = real & ~masked if drops_hidden else real
    if drops_hidden:  # what it read comes in order, then filler
        count = read.sum(1)
        read = torch.arange(int(count.max()), device=count.device) < count.unsqueeze(1)
    states = output.last_hidden_state[:, -read.shape[1] :]  # (rows, read, dim)
    weight = read.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)
