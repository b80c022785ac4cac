"""A converted model against tensors that the original code wrote for the same weights."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..modeling_pretraining import PreTrainingMixin


def inputs_of(model: PreTrainedModel, io: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a reference case, by the names that the model gives them; without masks."""
    name = model.main_input_name
    if model.config.model_type == "data2vec-text":
        tokens = io["in.target_tokens"]
        return {"input_ids": tokens, "attention_mask": tokens.ne(1).long()}
    inputs = {name: next(io[source] for source in ("in.img", "in.source", "in.imgs") if source in io)}
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
        mask = io["in.mask_indices"] if "in.mask_indices" in io else io["in.vision_mask"]
        return {"masked": mask.flatten(1).bool()}
    rows = io["in.precomputed_mask"].bool()
    masks = {"masked": rows.unflatten(0, (len(io["in.source"]), -1))}
    if "in.mask_noise" in io:  # the original adds it behind the kept tokens, and then sorts
        noise, order, kept = io["in.mask_noise"], io["mask.ids_restore"], io["mask.ids_keep"].shape[1]
        behind = torch.cat((noise.new_zeros(len(noise), kept, noise.shape[-1]), noise), dim=1)
        placed = behind.gather(1, order.unsqueeze(-1).expand_as(behind))
        masks["mask_noise"] = placed.unflatten(0, masks["masked"].shape[:2])
    return masks


@torch.no_grad()
def differences(model: PreTrainedModel, io: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference of each tensor, relative to 1 or to the tensor's largest value, whichever is more.

    Args:
        io: `in.*`, and what came out of the original: `feat.x`, for a model with a head `logits`, and for one that
            pretrains `reg.x` (predictions), `reg.y` (targets), `cls.x` and `cls.y`.
    """
    inputs = inputs_of(model, io)
    features = io["feat.x"] if "feat.x" in io else io["feat.x_with_extra_tokens"]
    hidden = model.base_model(**inputs).last_hidden_state
    hidden = hidden[:, hidden.shape[1] - features.shape[1] :]  # without extra tokens, where these are
    # in text of data2vec 1 the original writes other values into the padding
    real = inputs["attention_mask"].bool() if "in.target_tokens" in io else slice(None)
    pairs = {"features": (hidden[real], features[real])}
    for name in ("logits", f"{getattr(model.config, 'classifier_pooling', None)}.logits"):  # with a head
        if name in io:
            pairs["logits"] = (model(**inputs).logits, io[name])
    if isinstance(model, PreTrainingMixin):
        out = model(**inputs | masks_of(model, io), num_items_in_batch=1)
        pairs |= {"predictions": (out.predictions, io["reg.x"]), "targets": (out.targets, io["reg.y"])}
        if "cls.x" in io and out.cls_predictions is not None and out.cls_targets is not None:
            pairs |= {"CLS predictions": (out.cls_predictions, io["cls.x"])}
            pairs |= {"CLS targets": (out.cls_targets, io["cls.y"])}
    return {name: _apart(*pair) for name, pair in pairs.items()}


def _apart(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"the model gives {tuple(ours.shape)} where the reference case has {tuple(theirs.shape)}.")
    return float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))
