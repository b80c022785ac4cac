"""EAT against its own code: both losses, steps of the optimizer, the classifier, and the folders of the Hub.

What it shares with data2vec 2.0 (features, targets, predictions, gradients, the teacher's move) is in
test_parity_data2vec2.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModel, AutoModelForAudioClassification

from data2vec.finetune.mixing import mixup, soft_targets
from data2vec.finetune.optim import parameter_groups
from data2vec.modeling.convert.command import convert
from data2vec.modeling.convert.keys import to_ours
from data2vec.modeling.convert.sources import SOURCES
from tests.modeling.test_parity_data2vec2 import close, inputs_of, load, masks_of, ours
from tests.reference import EAT_CASES, cases, folder_of, part


TUNED, HUB = cases("eat_finetuned_?"), cases("eat_hf_*")


def read(case: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Its config.json, what the original computed, and its steps."""
    folder = folder_of(case)
    io, step = (load_file(folder / f"{name}.safetensors") for name in ("io", "step"))
    return json.loads((folder / "config.json").read_text()), io, step


def adam(model: Any, groups: list[dict[str, Any]], averages: Mapping[str, Mapping[str, Tensor]], steps: int) -> Any:
    """The original's optimizer, as it was in the checkpoint. Its weight decay spares nothing."""
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.05)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kept = {kind: averages[kind][name].clone() for kind in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(float(steps)), **kept}
    return optimizer


def take_step(optimizer: Any) -> None:
    """As fairseq, whose epsilon is added in front of the correction of the second average."""
    done = next(iter(optimizer.state.values()))["step"]
    for group in optimizer.param_groups:
        group["eps"] = 1e-8 / (1 - 0.95 ** (float(done) + 1)) ** 0.5
    optimizer.step()


# ---- pretraining ----


@pytest.mark.parametrize("case", EAT_CASES)
def test_both_losses_equal_the_original(case: str) -> None:
    _, model, _, io, _ = load(case)
    out = model.eval()(**inputs_of(model, io), **masks_of(model, io), num_items_in_batch=1)
    terms = {"regression": io["loss.IMAGE_regression"], "utterance": io["loss.cls"]}
    assert set(out.loss_terms) == set(terms)
    for name, summed in terms.items():
        weight = model.objective.cls_loss_weight if name == "utterance" else 1.0
        close(out.loss_terms[name] * weight * int(io["sample_size"]), summed, name)


@pytest.mark.parametrize("case", EAT_CASES)
def test_two_steps_equal_the_original(case: str) -> None:
    """Gradients of the sum over the masked count, clipped; Adam; then the teacher, before the second forward."""
    _, model, config, io, _ = load(case)
    _, _, step = read(case)
    model.train()  # dropout is 0
    averages = {kind: ours(part(step, f"{kind}."), "eat") for kind in ("exp_avg", "exp_avg_sq")}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = adam(model, [{"params": trained}], averages, config["num_updates_in_checkpoint"])
    for prefix in ("step", "step2"):
        if prefix == "step2":
            model.update_teacher(float(step["step2.decay"]))
        drawn = io | ({"in.mask_noise": step[f"{prefix}.mask_noise"]} if f"{prefix}.mask_noise" in step else {})
        optimizer.zero_grad()
        model(**inputs_of(model, io), **masks_of(model, drawn)).loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, config["cfg"]["optimization"]["clip_norm"])
        assert norm.item() == pytest.approx(float(step[f"{prefix}.gnorm"]), rel=1e-5)
        optimizer.param_groups[0]["lr"] = float(step[f"{prefix}.lr"])
        take_step(optimizer)
        golden = ours(part(step, "param." if prefix == "step" else "step2.param."), "eat")
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                close(parameter, golden[name], f"{name} after {prefix}")
    golden = ours({f"_ema.{name}": t for name, t in part(step, "step2.ema.").items()}, "eat")
    for name, tensor in model.teacher.state_dict().items():
        close(tensor, golden[f"teacher.{name}"], f"teacher's {name}")


# ---- the classifier ----


def classifier(case: str, folder: Path, **fields: Any) -> Any:
    convert(folder_of(case) / "checkpoint.pt", folder / "out")
    return AutoModelForAudioClassification.from_pretrained(folder / "out", **fields).eval()


def named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    source = SOURCES["eat"]
    return to_ours(tensors, source.tuned_rows(), source.shaped)[0]


@pytest.mark.parametrize("case", TUNED)
@pytest.mark.parametrize(
    ("pooling", "theirs"), [("cls_token", "cls_token"), ("mean", "mean_pooling"), ("lin_softmax", "lin_softmax")]
)
def test_every_pooling_equals_the_original(case: str, pooling: str, theirs: str, tmp_path: Path) -> None:
    io = read(case)[1]
    model = classifier(case, tmp_path, classifier_pooling=pooling)
    spectrograms = io["in.imgs"].squeeze(1)
    hidden = model.eat(spectrograms).last_hidden_state
    close(hidden, io["feat.x_with_extra_tokens"], "features")
    for attention_mask in (None, torch.ones(spectrograms.shape[:2], dtype=torch.long)):
        close(model.pooled(hidden, attention_mask), io[f"{theirs}.pooled"], "pooled")
        close(model(spectrograms, attention_mask).logits, io[f"{theirs}.logits"], "logits")
    close(model.norm(io[f"{theirs}.pooled"]), io[f"{theirs}.normed"], "behind the norm")
    if pooling == "cls_token":
        close(model(spectrograms).logits.sigmoid(), io["eval.predictions"], "predictions")


@pytest.mark.parametrize("case", TUNED)
def test_losses_equal_the_original(case: str, tmp_path: Path) -> None:
    """The original sums; its number of positives only scales the gradient, to which Adam is indifferent."""
    io, model = read(case)[1], classifier(case, tmp_path)
    spectrograms, labels = io["in.imgs"].squeeze(1), io["in.label"].float()
    logits = model(spectrograms).logits
    close(binary_cross_entropy_with_logits(logits, labels, reduction="sum"), io["loss"], "BCE")
    assert model.config.problem_type == "multi_label_classification"
    close(model(spectrograms, labels=labels).loss * labels.numel(), io["loss"], "the model's own loss")
    assert int(io["sample_size"]) == labels.sum()
    classes = io["single.label"].argmax(1)
    smooth = cross_entropy(logits, soft_targets(classes, labels.shape[1], 0.1), reduction="none")
    close(smooth, io["single.loss_esc50_smoothing0.1"], "smoothed cross entropy")


@pytest.mark.parametrize("case", TUNED)
def test_mixup_equals_the_original(case: str, tmp_path: Path) -> None:
    io, model = read(case)[1], classifier(case, tmp_path)
    images, labels = mixup(io["in.imgs"], io["in.label"].float(), float(io["mixup.lam"]))
    close(images, io["mixup.imgs"], "spectrograms")
    close(labels, io["mixup.label"], "labels")
    logits = model(images.squeeze(1)).logits
    close(binary_cross_entropy_with_logits(logits, labels, reduction="none"), io["mixup.loss"], "BCE")


@pytest.mark.parametrize("case", TUNED)
def test_a_step_with_layer_decay_equals_the_original(case: str, tmp_path: Path) -> None:
    """Blocks learn at .65 of the block above; what is in front of them, and the head, at the full rate."""
    (config, io, step), model = read(case), classifier(case, tmp_path).train()
    rates = {name: float(rate) for name, rate in config["lr_used_by_parameter"].items()}
    full, decay = max(rates.values()), config["cfg"]["model"]["layer_decay"]
    groups = parameter_groups(model, learning_rate=full, weight_decay=0.05, layer_decay=decay, decay_embeddings=False)
    own = {name: group["lr"] for group in groups for name in group["names"]}
    found = {name: float(rate) for name, rate in named({n: torch.tensor(r) for n, r in rates.items()}).items()}
    assert own == pytest.approx(found, rel=1e-5)  # fp32
    averages = {kind: named(part(step, f"{kind}.")) for kind in ("exp_avg", "exp_avg_sq")}
    groups = [{"params": group["params"], "lr": group["lr"]} for group in groups]
    optimizer = adam(model, groups, averages, config["num_updates_in_checkpoint"])
    labels = io["in.label"].float()
    logits = model(io["in.imgs"].squeeze(1)).logits
    loss = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    loss.backward()
    golden = named(part(io, "grad."))
    trained = dict(model.named_parameters())
    assert set(golden) == set(trained)
    for name, parameter in trained.items():
        close(parameter.grad, golden[name], f"gradient of {name}")
        parameter.grad /= io["sample_size"]
    take_step(optimizer)
    after = named(part(step, "param."))
    for name, parameter in trained.items():
        close(parameter, after[name], f"{name} after the step")


# ---- the Hub's folders ----


@pytest.mark.parametrize("case", HUB)
def test_a_folder_of_the_hub_answers_as_its_own_code(case: str, tmp_path: Path) -> None:
    """Also on clips longer than those of training."""
    convert(folder_of(case), tmp_path / "out")
    io, tuned = load_file(folder_of(case) / "io.safetensors"), "finetuned" in case
    opener = AutoModelForAudioClassification if tuned else AutoModel
    model, info = opener.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    encoder = model.eval().base_model
    for clip, features in (("imgs", "feat"), ("imgs_long", "feat.long")):
        expected = io[f"{features}.x_with_extra_tokens"]
        close(encoder(io[f"in.{clip}"].squeeze(1)).last_hidden_state, expected, clip)
    if tuned:
        close(model(io["in.imgs"].squeeze(1)).logits, io["logits"], "logits")
        model.norm.eps = 1e-6
        close(model(io["in.imgs"].squeeze(1)).logits, io["logits_eps1e-6"], "logits with the original's epsilon")
