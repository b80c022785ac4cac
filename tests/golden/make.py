"""Make the cases that parity tests read, from full ones: `python tests/golden/make.py REFERENCE_FOLDER`.

A full case is what the original implementation wrote: `checkpoint.pt`, `io.safetensors` and `config.json` of a tiny
model (see README.md). A case here lacks what no test reads: the optimizer's state, and intermediate tensors.
Made twice, the files are equal.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


HERE = Path(__file__).parent
CASES = ("v1_audio_a", "v1_text_a", "v1_text_c", "v1_vision_a", "v2_audio_a", "v2_image_a", "v2_text_a")
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
)
WHOLE = ("misc/masks_and_tables.safetensors", "misc/meta.json", "point2vec_misc/misc.safetensors")
CONFIG = ("cfg", "ema_test_decay", "scalars_of_io_forward")


def is_read(name: str) -> bool:
    return any(name.startswith(read) if read.endswith(".") else name == read for read in READ)


def strip(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    checkpoint = torch.load(source / "checkpoint.pt", weights_only=True)
    checkpoint.pop("last_optimizer_state")
    torch.save(checkpoint, target / "checkpoint.pt")
    tensors: dict[str, Tensor] = load_file(source / "io.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if is_read(name)}, target / "io.safetensors")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    kept = {name: config[name] for name in CONFIG if name in config}
    (target / "config.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")


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
    for case in CASES:
        strip(Path(reference) / case, HERE / case)
    strip_fbank(Path(reference) / "eat_fbank", HERE / "eat_fbank")
    for name in WHOLE:
        (HERE / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(reference) / name, HERE / name)


if __name__ == "__main__":
    main(sys.argv[1])
