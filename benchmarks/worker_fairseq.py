"""The original implementation as an arm of step.py, from a checkout of the user's; see worker.py for the protocol.

    python benchmarks/step.py --system audio_v2 --fairseq FOLDER --arms fairseq data2vec

Its models, configurations, Adam, clipping and teacher are used as they are; "bf16" is autocast around its step. Needs
omegaconf, hydra-core, bitarray, sacrebleu, einops and timm beside this package's requirements. What current versions
refuse is stepped over here: dataclasses as defaults, torchvision, two names of numpy, one cast.
"""

import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy
import torch
import transformers  # noqa: F401  # before the dataclasses are changed
from systems import SYSTEMS, build
from worker import CLOCKS, Channel, Clock, peak_bytes


CONFIGS = {
    "audio_v1": ("data2vec_audio", "Data2VecAudio", "audio/pretraining/base_librispeech.yaml"),
    "text_v1": ("data2vec_text", "Data2VecText", "text/pretraining/base.yaml"),
    "audio_v2": ("data2vec2", "Data2VecMulti", "v2/base_audio_only_task.yaml"),
    "vision_v2": ("data2vec2", "Data2VecMulti", "v2/base_images_only_task.yaml"),
    "text_v2": ("data2vec2", "Data2VecMulti", "v2/base_text_only_task.yaml"),
}


def import_fairseq(folder: str) -> None:
    made = dataclasses.dataclass

    def hashable(cls: Any = None, /, **options: Any) -> Any:
        def make(cls: Any) -> Any:
            theirs = cls.__module__.split(".")[0] in ("fairseq", "examples")
            return made(cls, **({"unsafe_hash": True} | options if theirs else options))

        return make if cls is None else make(cls)

    dataclasses.dataclass = hashable  # type: ignore[assignment]
    sys.path.insert(0, folder)
    for kind in (float, int):
        setattr(numpy, kind.__name__, kind)  # names that numpy took back
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(NoTorchvision())
    importlib.import_module("fairseq")


class NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules whose every name is an empty class: enough to import what is never called in pretraining."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = _empty_class  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Empty(name, (torch.nn.Module,), {})


class _Empty(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


def make_model(system: str, folder: str, spec: dict[str, Any], config: Any) -> tuple[Any, dict[str, Any]]:
    """Its model, and the sections of its recipe."""
    from omegaconf import OmegaConf

    file, name, recipe = CONFIGS[system]
    module = importlib.import_module(f"examples.data2vec.models.{file}")
    sections: Any = OmegaConf.load(f"{folder}/examples/data2vec/config/{recipe}")
    defaults = OmegaConf.structured(getattr(module, f"{name}Config"))
    OmegaConf.set_struct(defaults, False)
    cfg: Any = OmegaConf.merge(defaults, {key: value for key, value in sections.model.items() if key != "_name"})
    length = spec.get("length") or SYSTEMS[system].length
    root: Any = OmegaConf.create({"common": {"seed": 1}, "optimization": {"max_update": 400_000}, "model": cfg})
    root.task = {"tokens_per_sample": 512}
    cfg = root.model  # what its fields refer to is around it
    task = None
    if system.startswith("text"):
        from fairseq.data import Dictionary

        words = Dictionary()
        for number in range(config.vocab_size - len(words) - 1):
            words.add_symbol(str(number))
        words.add_symbol("<mask>")
        task = types.SimpleNamespace(source_dictionary=words, cfg=types.SimpleNamespace(data=None), mask_idx=3)
    if system.endswith("v2"):
        cfg.clone_batch = spec.get("views") or SYSTEMS[system].views
        if system == "vision_v2":
            cfg.modalities.image.input_size = length
    if not spec.get("dropout"):
        switch_off_dropout(cfg)
    return getattr(module, f"{name}Model").build_model(cfg, task), sections


def switch_off_dropout(cfg: Any) -> None:
    from omegaconf import DictConfig, OmegaConf

    for key in list(cfg):
        if OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue
        if isinstance(cfg[key], DictConfig):
            switch_off_dropout(cfg[key])
        elif ("drop" in key) and isinstance(cfg[key], float):
            cfg[key] = 0.0


def cast_mask_embedding(model: Any) -> None:
    """Under autocast it writes an fp32 mask embedding into bf16 features, which torch refuses."""
    if "mask_emb" in model._parameters:
        kind = type(model)

        def mask_emb(self: Any) -> torch.Tensor:
            weight = self._parameters["mask_emb"]
            return weight.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else weight

        model.__class__ = type(kind.__name__, (kind,), {"mask_emb": property(mask_emb)})


def inputs(system: str, batch: dict[str, torch.Tensor], config: Any) -> dict[str, Any]:
    """A batch of our collator, masks included, in its words."""
    masked = batch["masked"]
    if system == "text_v1":
        hidden = batch["input_ids"].masked_fill(masked, config.vocab_size - 1)
        return {"src_tokens": hidden, "target_tokens": batch["input_ids"], "masked_tokens": masked}
    source = next(value for key, value in batch.items() if key != "masked")
    if system == "audio_v1":
        return {"source": source, "mask_indices": masked, "padding_mask": None}
    return {"source": source, "precomputed_mask": masked.flatten(0, 1).int()}


def make_step(model: Any, sections: Any, clock: Clock, autocast: bool) -> Callable[[dict[str, Any]], None]:
    from fairseq.optim.adam import Adam
    from fairseq.utils import clip_grad_norm_

    optimizer = Adam(model.parameters(), lr=1e-6, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    clip = float(sections.optimization.get("clip_norm", 0.0) or 0.0)
    number = 0
    device = next(model.parameters()).device.type

    def step(net_input: dict[str, Any]) -> None:
        nonlocal number
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            output = model(**net_input)
            loss = sum(value.float().sum() for value in output["losses"].values())
        clock.mark("forward")
        loss.backward()
        clock.mark("backward")
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(float(output["sample_size"]))
        clip_grad_norm_(list(model.parameters()), clip)
        clock.mark("clip")
        optimizer.step()
        clock.mark("optimizer")
        number += 1
        model.set_num_updates(number)
        clock.mark("ema")
        optimizer.zero_grad()

    return step


def main() -> None:
    channel = Channel()
    spec = json.loads(sys.argv[1])
    folder, system, now = spec.pop("fairseq"), spec.pop("system"), CLOCKS[spec.pop("clock")]
    if system not in CONFIGS or spec["size"] != "base":
        raise SystemExit(f"fairseq is timed for {', '.join(CONFIGS)} at base size only.")
    torch.manual_seed(1)
    run, data = build(system, **spec)
    import_fairseq(folder)
    model, sections = make_model(system, folder, spec, run.config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    cast_mask_embedding(model)
    model.set_num_updates(0)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    clock = Clock(wait, now)
    step = make_step(model, sections, clock, spec["precision"] == "bf16")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ema = getattr(model, "ema", None) or model.encoder.ema  # in text of data2vec 1 it is the encoder's
    averaged = sum(p.numel() for p in ema.model.parameters())
    channel.answer(trained=trained, teacher=averaged, threads=torch.get_num_threads())
    keys = iter(data.batch_sampler or [])
    while (command := channel.command()) != "stop":
        clock.split = command == "stages"
        clock.start()
        batch = data.collator([data.train_dataset[key] for key in next(keys)])
        net_input = {
            key: value.to(device) if torch.is_tensor(value) else value
            for key, value in inputs(system, batch, run.config).items()
        }
        clock.mark("data")
        step(net_input)
        seconds = clock.stop()
        channel.answer(seconds=seconds, stages=dict(clock.spent), peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
