"""A checkpoint's tensors <-> a model: names, shapes and completeness, every contradiction by name."""

import re
from collections.abc import Callable

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..modeling_pretraining import PreTrainingMixin
from ..modeling_student_teacher import Data2Vec2ForPreTraining
from .keys import Rows, to_original, to_ours, translated
from .source import Source, Tensors


# in a fine-tuned checkpoint what is left of pretraining, and masks of another method
LEFT_OVERS = re.compile(
    r"encoder\.(lm_head|regression_head|_ema)\..*|.*\.encoder_mask|(.*\.)?_ema\..*|w2v_encoder\.w2v_model\.final_proj\..*"
    r"|.*modality_encoders\.[A-Z]+\.decoder\..*"
)
FIXED = re.compile(r".*\.version|.*relative_position_index")


def load(
    tensors: Tensors, source: Source, tuned: bool, config: PreTrainedConfig, encoder_only: bool
) -> tuple[PreTrainedModel, Tensors]:
    """The model that the checkpoint is, in fp32, and tensors that the original keeps and does not use.

    Nothing of the size that the configuration says is allocated before the tensors were found to have it.

    Raises:
        ValueError: tensors that contradict the configuration, that are missing or too many.
    """
    encoder_only = encoder_only or (not tuned and source.pretrained is source.encoder)  # there is no more of it
    rows = source.tuned_rows() if tuned else source.rows
    ours, left = to_ours(_upgraded(tensors, source), rows, source.shaped)
    if tuned:
        left = {name: tensor for name, tensor in left.items() if not LEFT_OVERS.fullmatch(name)}
    unused = {name: tensor for name, tensor in left.items() if source.unused and re.fullmatch(source.unused, name)}
    _check_left({name: tensor for name, tensor in left.items() if name not in unused}, source, tuned, config)
    wanted = not (tuned or encoder_only or source.fresh_teacher)
    if wanted and not any(name.startswith("teacher.") for name in ours):
        raise ValueError("the checkpoint holds no teacher ('_ema'), so it cannot be continued: use --encoder-only.")
    prefix = source.student if encoder_only else ""
    if encoder_only:
        ours = {name.removeprefix(prefix): tensor for name, tensor in ours.items() if name.startswith(prefix)}
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("pooler.")}  # of a head
    model_class = source.tuned.model_class if tuned and source.tuned else source.pretrained
    build = source.encoder if encoder_only else model_class
    with torch.device("meta"):
        _check(build(config), ours, rows, prefix, source.fresh_teacher)
    model = build(config)
    _fill(model, ours, lambda name: _original(name, rows, prefix))
    return model.eval(), unused


def has_teacher(tensors: Tensors, source: Source) -> bool:
    return any(name.startswith(source.teacher) for name in tensors)


def _upgraded(tensors: Tensors, source: Source) -> Tensors:
    """Names as the newest version of the original code has them."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in source.older:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def _original(name: str, rows: Rows, prefix: str) -> str:
    fused = re.sub(r"(?<=attention\.attention\.)(query|key|value)\.weight$", "qkv.weight", name)
    return translated(prefix + fused, rows, back=True) or name


def _check_left(left: Tensors, source: Source, tuned: bool, config: PreTrainedConfig) -> None:
    """Tensors without a place may only be the original's constants."""
    for name, tensor in left.items():
        if not FIXED.fullmatch(name):
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise ValueError(
                f"the checkpoint's tensor {name} {tuple(tensor.shape)}{more} has no place in {source.words}: its "
                "configuration names another network."
            )
        pairs = 1 + (getattr(config, "image_size", 0) // getattr(config, "patch_size", 1)) ** 2
        if name.endswith("relative_position_index") and tensor.shape != (pairs, pairs):
            raise ValueError(f"the checkpoint's tensor {name} contradicts its configuration: it is of other images.")
    fixed = source.fixed(config, tuned) if left and source.fixed else {}
    for name, tensor in left.items():
        if name not in fixed:
            raise ValueError(f"the checkpoint's tensor {name} has no place in {source.words}.")
        if not torch.equal(fixed[name].to(tensor.dtype), tensor):
            raise ValueError(f"the checkpoint's tensor {name} contradicts its configuration: it holds other values.")


def _check(skeleton: PreTrainedModel, ours: Tensors, rows: Rows, prefix: str, fresh_teacher: bool) -> None:
    """Every tensor has a place of its shape, and every weight a tensor, but for those that `_fill` knows."""
    wanted = skeleton.state_dict()
    places = wanted | dict(skeleton.named_buffers())
    for name, tensor in ours.items():
        if name not in places:
            if name.endswith("masked_spec_embed"):  # fine-tuned without SpecAugment
                continue
            raise ValueError(
                f"the checkpoint's tensor {_original(name, rows, prefix)} has no place: its configuration has fewer "
                "parts."
            )
        if places[name].shape != tensor.shape:
            raise ValueError(
                f"the checkpoint's tensor {_original(name, rows, prefix)} has shape {tuple(tensor.shape)} (as we keep "
                f"it), its configuration says {tuple(places[name].shape)}."
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"the checkpoint's tensor {_original(name, rows, prefix)} holds NaN or infinity: training diverged."
            )
    known = [name for name in wanted if _is_zero(name) or _is_shared(name, skeleton)]
    known += [name for name in wanted if name.startswith("teacher.") and fresh_teacher]
    missing = [name for name in wanted if name not in ours and name not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        name = _original(min(missing), rows, prefix)
        raise ValueError(f"the checkpoint has no tensor {name}{more}, which its configuration names.")


def _is_zero(name: str) -> bool:
    """What the original does not have gets the value that changes nothing."""
    return "token_type_embeddings" in name or name.endswith(".key.bias")


def _is_shared(name: str, model: PreTrainedModel) -> bool:
    """A teacher of blocks alone has the rest from the student."""
    if not isinstance(model, PreTrainingMixin) or not name.startswith("teacher."):
        return False
    shared = model.objective.ema_scope == "blocks" and isinstance(model, Data2Vec2ForPreTraining)
    return shared and not name.removeprefix("teacher.").startswith(model.ema_scopes["blocks"])


@torch.no_grad()
def _fill(model: PreTrainedModel, ours: Tensors, original: Callable[[str], str]) -> None:
    """Copy tensors into a model that has a place for each."""
    weights, buffers = model.state_dict(), dict(model.named_buffers())
    for name, tensor in ours.items():
        if name in weights:
            weights[name].copy_(tensor)
        elif name in buffers and not (buffers[name] - tensor).abs().max() <= 1e-5:
            # positions are a function of the configuration
            raise ValueError(f"the checkpoint's tensor {original(name)} contradicts its configuration.")
    for name in weights.keys() - ours.keys():
        if _is_zero(name):
            weights[name].zero_()
        else:
            student = dict(model.base_model.named_parameters())
            weights[name].copy_(student[name.removeprefix("teacher.")])


def original_tensors(model: PreTrainedModel, source: Source, unused: Tensors) -> Tensors:
    """Every tensor of the original's checkpoint, by its name, the teacher's under `_ema.`.

    Raises:
        ValueError: the model has weights that the original has no place for.
    """
    assert isinstance(model, PreTrainingMixin)
    objective, config = model.objective, model.config
    rows = source.rows if source.rows_back is None else source.rows_back(objective)
    tensors = {name: t.detach().float() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    tensors |= {name: t for name, t in model.named_buffers() if name.endswith("positions.table")}
    _fold_types(tensors)
    originals, left = to_original(tensors, rows, source.shaped_back)
    left = [name for name in left if not (objective.ema_scope == "blocks" and name.startswith("teacher."))]
    if left:
        raise ValueError(f"{left[0]} and {len(left) - 1} more tensors have no place in {source.words}.")
    if source.fixed:
        originals |= source.fixed(config, False)
    if source.completed:
        originals = source.completed(originals, config)
    kept = {name: tensor for name, tensor in unused.items() if source.unused and re.fullmatch(source.unused, name)}
    return {name: tensor.contiguous().clone() for name, tensor in (originals | kept).items()}


def _fold_types(tensors: Tensors) -> None:
    """The original has no token types: the one that is always read goes into the positions."""
    for name in [name for name in tensors if name.endswith("token_type_embeddings.weight")]:
        types, positions = tensors.pop(name), name.replace("token_type", "position")
        if types[0].any():
            tensors[positions] = tensors[positions] + types[0]
