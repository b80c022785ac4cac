"""The code of a card: how to open this model, and how to fine-tune it, in stock `transformers`."""

from typing import Any

from .facts import Facts


REPO_ID = "REPO_ID"  # push.py puts the real one there

AUTO = {
    "automatic-speech-recognition": "AutoModelForCTC",
    "audio-classification": "AutoModelForAudioClassification",
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
}


def loading(facts: Facts) -> str:
    """A runnable block of Python: features of an encoder, or what a fine-tuned model's `pipeline` says."""
    trust = ", trust_remote_code=True" if facts.own_code else ""
    if facts.results is not None and facts.pipeline is not None:
        return _classes_of_one_channel(facts, trust) if _one_channel(facts) else _pipeline(facts, trust)
    imports, lines = _example(facts)
    reader = facts.modality.processor_class.__name__
    options = "" if facts.own_code else facts.of_modality.encoder_options
    return _block(
        [*imports, f"from transformers import {', '.join(sorted(('AutoModel', reader)))}"],
        [
            f'encoder = AutoModel.from_pretrained("{REPO_ID}"{trust}{options})',
            f'processor = {reader}.from_pretrained("{REPO_ID}"{trust})',
            *lines,
            f"inputs = {facts.of_modality.call}",
            f"features = encoder(**inputs).last_hidden_state  # {facts.modality.shapes[1]}",
        ],
    )


def _pipeline(facts: Facts, trust: str) -> str:
    imports, lines = _example(facts)
    return _block(
        [*imports, "from transformers import pipeline"],
        [f'model = pipeline("{facts.pipeline}", model="{REPO_ID}"{trust})', *lines, "print(model(example))"],
    )


def _one_channel(facts: Facts) -> bool:
    return facts.pipeline == "image-classification" and facts.config.get("num_channels") == 1


def _classes_of_one_channel(facts: Facts, trust: str) -> str:
    """Without `pipeline`, which makes three channels of every picture."""
    imports, lines = _example(facts)
    auto = AUTO[str(facts.pipeline)]
    return _block(
        [*imports, f"from transformers import AutoImageProcessor, {auto}"],
        [
            f'model = {auto}.from_pretrained("{REPO_ID}"{trust})',
            f'processor = AutoImageProcessor.from_pretrained("{REPO_ID}"{trust})',
            *lines,
            'logits = model(**processor(example, return_tensors="pt")).logits  # (batch, classes)',
            "print(model.config.id2label[logits.argmax(-1).item()])",
        ],
    )


def _example(facts: Facts) -> tuple[list[str], list[str]]:
    """Imports, and lines that make an `example` to be replaced by a real one."""
    return list(facts.of_modality.imports), [facts.of_modality.example(facts.config)]


def fine_tuning(facts: Facts) -> dict[str, str] | None:
    """Of an encoder: a block of Python, and the command of this package; `None` for a fine-tuned model."""
    if facts.results is not None or facts.of_modality.fine_tuning is None:
        return None
    auto, script, recipe = facts.of_modality.fine_tuning
    trust = ", trust_remote_code=True" if facts.own_code else ""
    lines = [f'model = {auto}.from_pretrained("{REPO_ID}", num_labels=2{trust})  # your number of classes']
    command = f"accelerate launch finetune/{script} {recipe} --model_name_or_path {REPO_ID}"
    return {"python": _block([f"from transformers import {auto}"], lines), "command": command}


def _block(imports: list[str], lines: list[str]) -> str:
    standard: list[Any] = [line for line in imports if not line.startswith("from transformers")]
    return "\n".join([*standard, *[line for line in imports if line not in standard], "", *lines])
