"""A converted model against tensors that the original code wrote for the same weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..modeling_pretraining import PreTrainingMixin


INPUTS = ("in.img", "in.source", "in.imgs", "in.points")
FEATURES = ("feat.x", "feat.x_with_extra_tokens", "feat.student.out", "feat.encoder_out")
PREDICTIONS, TARGETS = ("reg.x", "pred"), ("reg.y", "target.masked")
LOGITS = ("logits", "feat.logits")


def _one_of(io: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    """The tensor that a reference case has under one of these names. Raises ValueError where it has none."""
    for name in names:
        if name in io:
            return io[name]
    raise ValueError(f"the reference case has none of {', '.join(names)}.")


def inputs_of(model: PreTrainedModel, io: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a reference case, by the names that the model gives them; without masks."""
    name = model.main_input_name
    if model.config.model_type == "data2vec-text":
        tokens = io["in.target_tokens"]
        return {"input_ids": tokens, "attention_mask": tokens.ne(1).long()}
    inputs = {name: _one_of(io, INPUTS)}
    if model.config.model_type == "eat":  # the original's have an axis of one channel
        inputs[name] = inputs[name].squeeze(1)
    if "in.padding_mask" in io and io["in.padding_mask"].any():
        inputs["attention_mask"] = (~io["in.padding_mask"]).long()
    return inputs


def masks_of(model: PreTrainingMixin, io: dict[str, Tensor]) -> dict[str, Tensor]:
    if "in.precomputed_mask" not in io:
        if "in.src_tokens" in io:
            masked = io["in.src_tokens"] == model.config.mask_token_id
            # the whole sequence, which the original may have given its teacher in part
            tokens = torch.where(masked, io["in.target_tokens"], io["in.src_tokens"])
            return {"masked": masked, "input_ids": tokens, "attention_mask": tokens.ne(1).long()}
        mask = _one_of(io, ("in.mask_indices", "in.vision_mask", "in.mask"))
        return {"masked": mask.flatten(1).bool()}
    rows = io["in.precomputed_mask"].bool()
    masks = {"masked": rows.unflatten(0, (len(io["in.source"]), -1))}
    if "in.mask_noise" in io:
        noise = io["in.mask_noise"]
        if noise.shape[1] != rows.shape[1]:  # as the original adds it behind the kept tokens, before it sorts
            order, kept = io["mask.ids_restore"], io["mask.ids_keep"].shape[1]
            behind = torch.cat((noise.new_zeros(len(noise), kept, noise.shape[-1]), noise), dim=1)
            noise = behind.gather(1, order.unsqueeze(-1).expand_as(behind))
        masks["mask_noise"] = noise.unflatten(0, masks["masked"].shape[:2])
    return masks


@torch.no_grad()
def differences(model: PreTrainedModel, io: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference of each tensor, relative to 1 or to the tensor's largest value, whichever is more.

    Args:
        io: `in.*`, and what came out of the original, by its names: features, for a model with a head its logits, and
            for one that pretrains predictions and targets.

    Raises:
        ValueError: the case has no inputs or nothing that the model could be compared with.
    """
    if "mae2d.in.data" in io:
        return _joint_differences(model, io)
    inputs = inputs_of(model, io)
    pairs = {}
    if any(name in io for name in FEATURES):
        pairs["features"] = _features(model, inputs, io)
    for name in (*LOGITS, f"{getattr(model.config, 'classifier_pooling', None)}.logits"):  # with a head
        if name in io and not isinstance(model, PreTrainingMixin):
            pairs["logits"] = (model(**inputs).logits, io[name])
    if "feat.log_prob" in io:  # of a category's parts
        logits = model(**inputs, categories=io["in.label"].long()).logits
        pairs["log probabilities"] = (logits.log_softmax(-1), io["feat.log_prob"])
    if isinstance(model, PreTrainingMixin):
        # a batch norm's statistics were those of the batch
        model.train(any(isinstance(module, nn.BatchNorm1d) for module in model.modules()))
        out = model(**inputs | masks_of(model, io), num_items_in_batch=1)
        pairs["predictions"] = (out.predictions, _one_of(io, PREDICTIONS))
        pairs["targets"] = (out.targets, _one_of(io, TARGETS))
        if "cls.x" in io and out.cls_predictions is not None and out.cls_targets is not None:
            pairs |= {"CLS predictions": (out.cls_predictions, io["cls.x"])}
            pairs |= {"CLS targets": (out.cls_targets, io["cls.y"])}
    if not pairs:
        raise ValueError("the reference case has neither features nor logits.")
    return {name: _apart(*pair) for name, pair in pairs.items()}


def _features(model: PreTrainedModel, inputs: dict[str, Tensor], io: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    hidden, features = model.base_model(**inputs).last_hidden_state, _one_of(io, FEATURES)
    hidden = hidden[:, hidden.shape[1] - features.shape[1] :]  # without extra tokens, where these are
    if "clip.0.frame" in io and "attention_mask" in inputs:  # each clip alone, as which ours are in a padded batch
        clips = [io[f"clip.{number}.frame"] for number in range(len(hidden))]
        return torch.cat([row[: len(clip)] for row, clip in zip(hidden, clips, strict=True)]), torch.cat(clips)
    # in text of data2vec 1 the original writes other values into the padding
    real = inputs["attention_mask"].bool() if "in.target_tokens" in io else slice(None)
    return hidden[real], features[real]


def _apart(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"the model gives {tuple(ours.shape)} where the reference case has {tuple(theirs.shape)}.")
    return float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))


def _joint_differences(model: PreTrainedModel, io: dict[str, Tensor]) -> dict[str, float]:
    """Of MedCoSS: predictions and targets of images and volumes, and features of text, its padding left out."""
    parts: Any = getattr(model, "modalities", None)
    if parts is None:
        raise ValueError("the reference case is of a joint model that pretrains: leave out --encoder-only.")
    pairs = {}
    for kind, modality in (("mae2d", "image"), ("mae3d", "volume")):
        part, values = parts[modality], io[f"{kind}.in.data"]
        masked, times = io[f"{kind}.mask.removed"].bool(), io[f"{kind}.in.temporal_id_student"].expand(len(values))
        inputs = {part.main_input_name: values, "masked": masked, "temporal_ids": times}
        out = part.eval()(**inputs, num_items_in_batch=1)
        pairs[f"{modality} predictions"] = (out.predictions, io[f"{kind}.decoder.pred_with_cls"][:, 1:][masked])
        pairs[f"{modality} targets"] = (out.targets, io[f"{kind}.target"][masked])
    real = io["mlm.in.mask_attention"]
    states = parts["text"].base_model.eval()(io["mlm.in.data"], real).last_hidden_state
    pairs["text features"] = (states[real.bool()], io["text_attention.batch_major"][real.bool()])
    return {name: _apart(*pair) for name, pair in pairs.items()}
