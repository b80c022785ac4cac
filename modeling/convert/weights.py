"""A checkpoint's tensors <-> a model: names, shapes and completeness, every contradiction by name."""

import re

import torch
from torch import Tensor
from transformers import Data2VecVisionConfig, PreTrainedConfig, PreTrainedModel

from ..modeling_pretraining import PreTrainingMixin
from .checkpoint import Checkpoint
from .keys import FAMILIES, STUDENTS, Rows, original_rows, to_original, to_ours, translated, tuned_rows
from .kinds import ENCODERS, PRETRAINED, TUNED_CLASSES, Kind


# names that older versions of the original code gave to the same tensors
OLDER = [
    (r"^decoder\.", "encoder."),
    (r"^((_ema\.)?)module\.", r"\1"),
    (r"\.emb_layer_norm\.", ".layernorm_embedding."),
    (r"^encoder\.lm_head\.(\d)", r"encoder.regression_head.\1"),
    (r"\.positional_encoder\.(pos_embed|positions)$", ".fixed_positional_encoder.positions"),
]
# the original has a predictor in vision that it does not use, and the average of one that is not read
UNUSED = re.compile(r"(_ema\.)?final_proj\.(weight|bias)|_ema\.lm_head\.(weight|bias)")
# in a fine-tuned checkpoint what is left of pretraining, and masks of another method
LEFT_OVERS = re.compile(
    r"encoder\.(lm_head|regression_head|_ema)\..*|.*\.encoder_mask|(.*\.)?_ema\..*|w2v_encoder\.w2v_model\.final_proj\..*"
    r"|.*modality_encoders\.[A-Z]+\.decoder\..*"
)
FIXED = re.compile(r".*\.version|.*relative_position_index")


def upgraded(tensors: dict[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """Names as the newest version of the original code has them."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in OLDER if kind.family in ("text", "vision2", "beit") else []:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def relative_position_index(side: int) -> Tensor:
    """`(1 + patches, 1 + patches)` int64: the row of the bias table for each pair, CLS first (as BEiT)."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = torch.stack((rows.flatten(), columns.flatten()))  # (2, patches)
    apart = place[:, :, None] - place[:, None, :] + side - 1  # (2, patches, patches)
    last = (2 * side - 1) ** 2 + 2
    index = torch.full((side**2 + 1, side**2 + 1), last, dtype=torch.int64)
    index[1:, 1:] = apart[0] * (2 * side - 1) + apart[1]
    index[0, 1:], index[1:, 0] = last - 2, last - 1
    return index


def fixed_tensors(family: str, config: PreTrainedConfig, tuned: bool = False) -> dict[str, Tensor]:
    """The original's constants, by name: a version number, the index of a position bias."""
    if family == "text":
        names = ["encoder.sentence_encoder.version"] + ([] if tuned else ["encoder._ema.version"])
        return dict.fromkeys(names, torch.tensor([3.0]))
    if family not in ("vision", "beit") or not isinstance(config, Data2VecVisionConfig):
        return {}
    index = relative_position_index(config.image_size // config.patch_size)
    names = []
    if config.use_shared_relative_position_bias:
        student = "encoder.rel_pos_bias." if family == "vision" else "rel_pos_bias."
        whole = family == "beit" or (not tuned and config.objective["ema_scope"] == "all")
        teacher = f"_ema.{student}" if whole else "_ema.rel_pos_bias."
        names = [student] if tuned else [student, teacher]
    if config.use_relative_position_bias:
        own = [f"blocks.{n}.attn." for n in range(config.num_hidden_layers)]
        names += own if tuned else own + [f"_ema.{name}" for name in own]
    return {f"{name}relative_position_index": index for name in names}


def load(
    checkpoint: Checkpoint, kind: Kind, config: PreTrainedConfig, encoder_only: bool
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model that the checkpoint is, in fp32, and tensors that the original keeps and does not use.

    Raises:
        ValueError: a tensor too many, too few, or of another shape or value than the configuration says.
    """
    rows = tuned_rows(kind.family) if kind.tuned else FAMILIES[kind.family]
    ours, left = to_ours(upgraded(checkpoint.tensors, kind), kind.family, rows)
    if kind.tuned:
        left = {name: tensor for name, tensor in left.items() if not LEFT_OVERS.fullmatch(name)}
    unused = {name: tensor for name, tensor in left.items() if UNUSED.fullmatch(name)}
    _check_left({name: tensor for name, tensor in left.items() if name not in unused}, kind, config)

    if not (kind.tuned or encoder_only) and not any(name.startswith("teacher.") for name in ours):
        raise ValueError("the checkpoint holds no teacher ('_ema'), so it cannot be continued: use --encoder-only.")
    if encoder_only:
        prefix = STUDENTS[kind.family]
        ours = {name.removeprefix(prefix): tensor for name, tensor in ours.items() if name.startswith(prefix)}
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("pooler.")}  # of a head
        model = _encoder(kind, config)
    else:
        model = (TUNED_CLASSES if kind.tuned else PRETRAINED)[kind.family](config)
    _fill(model, ours, rows, STUDENTS[kind.family] if encoder_only else "")
    return model.eval(), unused


def _encoder(kind: Kind, config: PreTrainedConfig) -> PreTrainedModel:
    pooling = {"add_pooling_layer": False} if kind.family in ("text", "vision", "beit") else {}
    return ENCODERS[kind.family](config, **pooling)


def _check_left(left: dict[str, Tensor], kind: Kind, config: PreTrainedConfig) -> None:
    fixed = fixed_tensors(kind.family, config, kind.tuned)
    for name, tensor in left.items():
        if name not in fixed:
            more = f" and {len(left) - 1} more" if len(left) > 1 and not FIXED.fullmatch(name) else ""
            raise ValueError(
                f"the checkpoint's tensor {name} {tuple(tensor.shape)}{more} has no place in {kind.words}: its "
                "configuration names another network."
            )
        if not torch.equal(fixed[name].to(tensor.dtype), tensor):
            raise ValueError(f"the checkpoint's tensor {name} contradicts its configuration: it holds other values.")


@torch.no_grad()
def _fill(model: PreTrainedModel, ours: dict[str, Tensor], rows: Rows, prefix: str) -> None:
    """Copy tensors into the model; what the original does not have gets the value that changes nothing."""
    places = model.state_dict() | dict(model.named_buffers())
    wanted = set(model.state_dict())

    def original(name: str) -> str:
        fused = re.sub(r"(?<=attention\.attention\.)(query|key|value)\.weight$", "qkv.weight", name)
        return translated(prefix + fused, rows, back=True) or name

    for name, tensor in ours.items():
        if name not in places:
            if name.endswith("masked_spec_embed"):  # fine-tuned without SpecAugment
                continue
            raise ValueError(
                f"the checkpoint's tensor {original(name)} has no place: its configuration has fewer parts."
            )
        if places[name].shape != tensor.shape:
            raise ValueError(
                f"the checkpoint's tensor {original(name)} has shape {tuple(tensor.shape)} (as we keep it), its "
                f"configuration says {tuple(places[name].shape)}."
            )
        if name not in wanted:  # positions that are a function of the configuration
            if (places[name] - tensor).abs().max() > 1e-5:
                raise ValueError(f"the checkpoint's tensor {original(name)} contradicts its configuration.")
            continue
        places[name].copy_(tensor)
    missing = sorted(wanted - set(ours))
    for name in [name for name in missing if "token_type_embeddings" in name or name.endswith(".key.bias")]:
        places[name].zero_()
        missing.remove(name)
    if isinstance(model, PreTrainingMixin):
        missing = [name for name in missing if not _is_shared(name, ours, model)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"the checkpoint has no tensor {original(missing[0])}{more}, which its configuration names.")


def _is_shared(name: str, ours: dict[str, Tensor], model: PreTrainingMixin) -> bool:
    """A teacher of blocks alone has the rest from the student."""
    shared = model.objective.ema_scope == "blocks" and model.config.model_type.startswith("data2vec2")
    if not shared or not name.startswith("teacher.") or name.startswith("teacher.encoder.layers."):
        return False
    student = dict(model.base_model.named_parameters())
    own = name.removeprefix("teacher.")
    dict(model.teacher.named_parameters())[own].copy_(student[own])
    return True


def original_tensors(model: PreTrainedModel, family: str, unused: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of the original's checkpoint, by its name, the teacher's under `_ema.`.

    Raises:
        ValueError: the model has weights that the original has no place for.
    """
    assert isinstance(model, PreTrainingMixin)
    objective, config = model.objective, model.config
    rows = original_rows(family, objective.head_layers, objective.ema_scope)
    tensors = {name: t.detach().float() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    tensors |= {name: t for name, t in model.named_buffers() if name.endswith("positions.table")}
    if family == "text":
        _fold_types(tensors)
    originals, left = to_original(tensors, family, rows)
    left = [name for name in left if not (objective.ema_scope == "blocks" and name.startswith("teacher."))]
    if left:
        raise ValueError(f"{left[0]} and {len(left) - 1} more tensors have no place in the original's {family} model.")
    originals |= fixed_tensors(family, config)
    if family == "vision":
        dim = config.hidden_size  # the original does not read it, but wants it
        originals |= {"final_proj.weight": torch.eye(dim), "final_proj.bias": torch.zeros(dim)} | unused
    if family == "beit":
        originals |= {f"_ema.lm_head.{x}": originals[f"lm_head.{x}"] for x in ("weight", "bias")} | unused
    return {name: tensor.contiguous().clone() for name, tensor in originals.items()}


def _fold_types(tensors: dict[str, Tensor]) -> None:
    """The original has no token types: the one that is always read goes into the positions."""
    for stem in ("data2vec_text.embeddings.", "teacher.embeddings."):
        types = tensors.pop(f"{stem}token_type_embeddings.weight")
        if types[0].any():
            tensors[f"{stem}position_embeddings.weight"] = tensors[f"{stem}position_embeddings.weight"] + types[0]
