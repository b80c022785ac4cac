"""Make the cases that parity tests read, from full ones: `python tests/golden/make.py REFERENCE_FOLDER`.

A full case is what the original implementation wrote: `checkpoint.pt`, `io.safetensors` and `config.json` of a tiny
model (see README.md). A case here lacks what no test reads: the optimizer's state, and intermediate tensors.
Made twice, the files are equal.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


HERE = Path(__file__).parent
STEPPED = ("eat_a", "eat_finetuned_a")  # with a step of the optimizer from the checkpoint on
HUB = ("eat_hf_a", "eat_hf_finetuned_a")  # folders as they are published
CASES = (
    *("v1_audio_a", "v1_text_a", "v1_text_c", "v1_vision_a", "v2_audio_a", "v2_image_a", "v2_text_a"),
    "emotion2vec_train_a",
)
LIGHTNING_CASES = ("point2vec_a", "data2vec_pc_a", "point2vec_cls_a", "point2vec_seg_a")
LIGHTNING = ("optimizer_states", "lr_schedulers", "loops", "callbacks")  # entries that nothing here reads
READ = (
    *(
        "in.",
        "grad.",
        "ema_after.",
        "teacher.layer_result.",
        "reg.",
        "cls.",
        "target.full",
        "mask.",
        "loss",
        "sample_size",
    ),
    *("feat.x", "feat.x_with_extra_tokens", "feat.layer_result.3"),
    *("student.encoder_out", "student.decoder_input", "student.decoder_out"),
    *("loss.", "eval.", "cls_token.", "mean_pooling.", "lin_softmax.", "single.", "mixup."),
    # Point2Vec
    *("grad_head.", "grad_stat.", "group.centers", "feat.tok.tokens", "feat.pos", "feat.student.block_out."),
    *("feat.student.out", "student.out", "teacher.block_out.", "teacher.ffn.", "target.masked", "pred"),
    *("feat.logits", "feat.loss", "feat.log_prob", "train.out"),
)
WHOLE = (
    *("misc/masks_and_tables.safetensors", "misc/meta.json", "point2vec_misc/misc.safetensors"),
    *(f"{case}/{name}" for case in HUB for name in ("config.json", "model.safetensors", "io.safetensors")),
    *(f"{case}/step.safetensors" for case in LIGHTNING_CASES),
)
CONFIG = (
    *("cfg", "ema_test_decay", "scalars_of_io_forward", "num_updates_in_checkpoint", "lr_used_by_parameter"),
    *("optimizer", "lr", "tau_steps", "decay_used", "no_grad_params"),
)


def is_read(name: str) -> bool:
    return any(name.startswith(read) if read.endswith(".") else name == read for read in READ)


def strip(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    checkpoint = torch.load(source / "checkpoint.pt", weights_only=True)
    state = checkpoint.pop("last_optimizer_state", None)
    for name in LIGHTNING:
        checkpoint.pop(name, None)
    torch.save(checkpoint, target / "checkpoint.pt")
    tensors: dict[str, Tensor] = load_file(source / "io.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if is_read(name)}, target / "io.safetensors")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if source.name in STEPPED:
        rates = config.get("lr_used_by_parameter", {})
        step = load_file(source / "step.safetensors") | moments(checkpoint["model"], state, rates)
        save_file(step, target / "step.safetensors")
    kept = {name: config[name] for name in CONFIG if name in config}
    (target / "config.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")


def moments(model: dict[str, Any], state: dict[str, Any], rates: dict[str, float]) -> dict[str, Tensor]:
    """Adam's averages by the parameters' names; the original keeps them in groups of like rates and axes, in order."""
    left = [name for name, tensor in model.items() if name != "_ema" and "fixed_positional" not in name]
    shares = {name: rates.get(name, 1.0) / max(rates.values(), default=1.0) for name in left}
    most = max(group["param_groups"][0]["lr"] for group in state.values())
    found = {}
    for group in state.values():
        share = group["param_groups"][0]["lr"] / most
        for entry in group["state"].values():
            of_shape = (n for n in left if model[n].shape == entry["exp_avg"].shape and abs(shares[n] - share) < 1e-3)
            name = next(of_shape)
            left.remove(name)
            found |= {f"{kind}.{name}": entry[kind] for kind in ("exp_avg", "exp_avg_sq")}
    assert not left, left
    return found


def strip_fbank(source: Path, target: Path) -> None:
    """Waveforms at 16 kHz, and the features that EAT's model is given."""
    target.mkdir(exist_ok=True)
    tensors = load_file(source / "io.safetensors")
    resampled = {name.replace("_16k", ""): tensor for name, tensor in tensors.items() if name.endswith("_16k")}
    kept = {name: tensor for name, tensor in tensors.items() if name.endswith((".waveform", ".source"))}
    save_file(kept | resampled, target / "io.safetensors")
    clips = json.loads((source / "config.json").read_text(encoding="utf-8"))["clips"]
    (target / "config.json").write_text(json.dumps({"clips": clips}, separators=(",", ":")) + "\n", encoding="utf-8")


def main(reference: str) -> None:
    for case in (*CASES, *STEPPED, *LIGHTNING_CASES):
        strip(Path(reference) / case, HERE / case)
    strip_fbank(Path(reference) / "eat_fbank", HERE / "eat_fbank")
    for name in WHOLE:
        (HERE / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(reference) / name, HERE / name)


if __name__ == "__main__":
    main(sys.argv[1])
