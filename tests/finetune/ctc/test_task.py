"""Speech recognition as a user runs it: `run_ctc.py RECIPE`, then `transformers` opens the folder."""

import importlib.util
import json
import logging
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import AutoConfig, AutoModelForCTC, AutoProcessor, set_seed

from data2vec.finetune.arguments import resolve
from data2vec.finetune.ctc.task import SpeechRecognition
from data2vec.finetune.run_ctc import main
from data2vec.finetune.runner import fine_tune
from data2vec.finetune.train_ngram import main as train_ngram
from data2vec.finetune.trainer import FineTuneTrainer
from tests.finetune.encoders import FAMILIES, encoder_folder
from tests.warm import warm_python


RATES = (16_000, 8_000)  # the clips' rates in turn
WORDS = {"A": 500, "BE": 1100, "SEE": 2300}  # a word is a tone of so many Hz
TRAIN, VALIDATION, TEST = 16, 5, 7


def write_clips(folder: Path, name: str, count: int, seed: int) -> Path:
    """`count` clips of one to three tones and their transcripts as a manifest, `folder`/`name`.jsonl."""
    draw = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        words = draw.choice(list(WORDS), size=draw.integers(1, 4)).tolist()
        rate = RATES[i % 2]
        time = np.arange(int(0.3 * rate)) / rate
        wave = np.concatenate([np.sin(2 * np.pi * WORDS[word] * time) * np.hanning(len(time)) for word in words])
        path = folder / f"{name}{i}.wav"
        soundfile.write(path, 0.3 * wave + 0.01 * draw.normal(size=len(wave)), rate)
        lines.append(json.dumps({"audio": str(path), "text": " ".join(words).lower()}))
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    sizes = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    return {name: write_clips(folder, name, size, seed) for seed, (name, size) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {family: encoder_folder(folder / family, "audio", family) for family in FAMILIES}


def recipe_of(clips: dict[str, Path], encoder: Path, out: Path, **training: Any) -> dict[str, Any]:
    settings = {
        "max_steps": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "learning_rate": 1e-3,
        "report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "seed": 3,
    }  # fmt: skip
    return {
        "model": {"model_name_or_path": str(encoder), "mask_time_prob": 0.3, "mask_time_length": 2, "layerdrop": 0.2,
                  "mask_feature_prob": 0.2, "mask_feature_length": 5},
        "data": {name: {"path": str(path)} for name, path in clips.items()},
        "task": {},
        "training": {"output_dir": str(out), **settings, **training},
    }  # fmt: skip


def run(recipe: dict[str, Any]) -> dict[str, Any]:
    return fine_tune(resolve(recipe, SpeechRecognition), SpeechRecognition)


PIPELINE = """
import json, sys
sys.modules["data2vec"] = None  # this package is not installed
import soundfile
from transformers import pipeline
folder, clip, remote = sys.argv[1:]
recognise = pipeline("automatic-speech-recognition", folder, trust_remote_code=remote == "v2")
wave, rate = soundfile.read(clip, dtype="float32")
print(json.dumps([recognise.type, recognise({"raw": wave, "sampling_rate": rate})["text"]]))
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finished_folder_opens_in_a_pipeline_without_this_package(family, clips, encoders, tmp_path) -> None:
    recipe = recipe_of(clips, encoders[family], tmp_path / "run", max_steps=1)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main([str(tmp_path / "recipe.yaml"), "--freeze_feature_encoder", "true"]) == 0

    folder = tmp_path / "run"
    results = json.loads((folder / "results.json").read_text())
    assert results["main"] == {"split": "test", "metric": "wer", "value": results["test"]["wer"]}
    assert results["test"]["examples"] == TEST and results["validation"]["examples"] == VALIDATION
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert sorted(vocabulary, key=vocabulary.__getitem__) == ["<pad>", "<unk>", "|", *"ABES"]
    config = AutoConfig.from_pretrained(folder)
    assert (config.vocab_size, config.pad_token_id, config.ctc_loss_reduction) == (7, 0, "sum")

    rows = [json.loads(line) for line in (folder / "predictions" / "test.jsonl").read_text().splitlines()]
    said = [json.loads(line)["text"].upper() for line in clips["test"].read_text().splitlines()]
    assert [row["label"] for row in rows] == said
    edits = sum(len(row["edits"]) for row in rows)
    assert edits / sum(len(text.split()) for text in said) == pytest.approx(results["test"]["wer"])
    assert "the most frequent edits" in (folder / "predictions" / "test_errors.md").read_text()

    clip = clips["test"].parent / "test0.wav"
    done = subprocess.run(
        [warm_python(), "-c", PIPELINE, str(folder), str(clip), family], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    kind, text = json.loads(done.stdout.splitlines()[-1])
    assert kind == "ctc"
    assert " ".join(text.split()) == rows[0]["prediction"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_thaws_after_its_steps_and_the_front_end_never(family, clips, encoders, tmp_path) -> None:
    recipe = recipe_of(
        clips, encoders[family], tmp_path / "run", max_steps=3, freeze_encoder_steps=2, freeze_feature_encoder=True,
        save_strategy="steps", save_steps=1,
    )  # fmt: skip
    run(recipe)
    before = AutoModelForCTC.from_pretrained(encoders[family], vocab_size=7, pad_token_id=0).state_dict()
    steps = [AutoModelForCTC.from_pretrained(tmp_path / "run" / f"checkpoint-{n}").state_dict() for n in (1, 2, 3)]

    def changed(a: dict[str, Any], b: dict[str, Any], part: str) -> list[bool]:
        return [not torch.equal(a[name], b[name]) for name in a if part in name]

    front = {"v1": "feature_extractor", "v2": "embeddings.conv"}[family]
    for step in steps:
        assert not any(changed(before, step, front))
    for step in steps[:2]:
        assert not any(changed(before, step, "encoder."))
    assert any(changed(before, steps[2], "encoder."))
    assert all(changed(steps[0], steps[1], "lm_head"))  # the head learns from the start


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_utterances_of_the_sum_over_letters(family, clips, encoders, tmp_path) -> None:
    """Against each clip on its own, by torch's loss: padding of a batch changes nothing (2.0), or little (1)."""
    resolved = resolve(recipe_of(clips, encoders[family], tmp_path / "run"), SpeechRecognition)
    task = SpeechRecognition(resolved)
    data = task.build_data()
    torch.manual_seed(0)
    model: Any = task.build_model(data).eval()
    examples = [data.evaluation["test"][i] for i in range(TEST)]
    assert len({len(example["input_values"]) for example in examples}) > 1
    batch = data.collator(examples)
    with torch.no_grad():
        loss, outputs = task.loss(model, batch)
        alone = [model(example["input_values"][None]).logits[0] for example in examples]  # (frames, vocabulary) each
    losses = [
        torch.nn.functional.ctc_loss(
            scores.log_softmax(-1)[:, None], example["labels"][None], torch.tensor([len(scores)]),
            torch.tensor([len(example["labels"])]), reduction="sum",
        )
        for scores, example in zip(alone, examples, strict=True)
    ]  # fmt: skip
    close = {"rtol": 1e-4, "atol": 1e-4} if family == "v2" else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(loss, torch.stack(losses).mean(), **close)
    kept = task.preprocess_logits(outputs["logits"], None)
    assert [int((row != -100).sum()) for row in kept] == [len(scores) for scores in alone]


def test_every_utterance_of_an_update_counts_alike(clips, encoders, tmp_path) -> None:
    """One step of plain gradient descent over batches of different sizes is one over all clips together."""
    recipe = recipe_of(
        clips, encoders["v2"], tmp_path / "run", max_steps=1, optim="sgd", learning_rate=1e-3, max_grad_norm=0.0,
        lr_scheduler_type="constant",
    )  # fmt: skip
    recipe["data"]["batch_seconds"] = 3
    recipe["model"] = {
        "model_name_or_path": str(encoders["v2"]), "layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "final_dropout": 0.0,
    }  # fmt: skip

    def build() -> tuple[SpeechRecognition, Any, Any]:
        resolved = resolve(recipe, SpeechRecognition)
        set_seed(resolved.training.seed)
        task = SpeechRecognition(resolved)
        data = task.build_data()
        return task, data, task.build_model(data)

    task, data, model = build()
    sampler = FineTuneTrainer(model, task.run.training, task, data).batches
    assert len({len(batch) for batch in sampler}) > 1
    recipe["training"]["gradient_accumulation_steps"] = len(sampler)
    task, data, model = build()
    loss, _ = task.loss(model.eval(), data.collator([data.train[i] for i in range(TRAIN)]))
    loss.backward()
    expected = {name: p.detach() - 1e-3 * p.grad for name, p in model.named_parameters() if p.grad is not None}
    run(recipe)
    stepped = AutoModelForCTC.from_pretrained(tmp_path / "run").state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(stepped[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_run_is_the_run_itself(family, clips, encoders, tmp_path) -> None:
    """Masks in time and over channels, LayerDrop, dropout, batches: all that is drawn comes back."""
    whole = recipe_of(clips, encoders[family], tmp_path / "whole", max_steps=6, save_strategy="steps", save_steps=3)
    whole["model"] |= {"hidden_dropout": 0.1}
    run(whole)
    parts = recipe_of(clips, encoders[family], tmp_path / "parts", max_steps=6, save_strategy="steps", save_steps=3)
    parts["model"] |= {"hidden_dropout": 0.1}
    (tmp_path / "parts").mkdir()
    (tmp_path / "whole" / "checkpoint-3").rename(tmp_path / "parts" / "checkpoint-3")
    (tmp_path / "parts" / "recipe.yaml").write_text((tmp_path / "whole" / "recipe.yaml").read_text())
    run(parts)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert first == second


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_drawn_in_training_only(family, clips, encoders, tmp_path) -> None:
    recipe = recipe_of(clips, encoders[family], tmp_path / "run")
    recipe["model"] |= {"layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
                        "final_dropout": 0.0}  # fmt: skip
    task = SpeechRecognition(resolve(recipe, SpeechRecognition))
    data = task.build_data()
    model: Any = task.build_model(data)
    batch = data.collator([data.train[i] for i in range(4)])

    def losses(training: bool) -> set[float]:
        with torch.no_grad():
            return {float(task.loss(model.train(training), batch)[0]) for _ in range(3)}

    assert len(losses(training=False)) == 1
    assert len(losses(training=True)) == 3


def test_it_learns(clips, encoders, tmp_path) -> None:
    """The loss on clips that were not trained on falls to a third in a few updates."""
    settings = {"per_device_train_batch_size": 16, "learning_rate": 1e-2, "warmup_steps": 5}
    first = run(recipe_of(clips, encoders["v2"], tmp_path / "first", **settings, max_steps=1))
    last = run(recipe_of(clips, encoders["v2"], tmp_path / "last", **settings, max_steps=25))
    assert last["test"]["loss"] < first["test"]["loss"] / 3


class TestBadInput:
    @pytest.fixture
    def broken(self, clips, tmp_path) -> Any:
        """A function: lines to add to the training manifest -> the recipe's data."""

        def add(*lines: dict[str, Any]) -> dict[str, Path]:
            manifest = clips["train"].parent / f"{tmp_path.name}.jsonl"  # a manifest lies beside what it names
            manifest.write_text(clips["train"].read_text() + "".join(json.dumps(line) + "\n" for line in lines))
            return {**clips, "train": manifest}

        return add

    def build(self, clips, encoder, tmp_path, **data: Any) -> tuple[SpeechRecognition, Any]:
        recipe = recipe_of(clips, encoder, tmp_path / "run")
        recipe["data"] |= data
        task = SpeechRecognition(resolve(recipe, SpeechRecognition))
        return task, task.build_data()

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("unreadable", "is text, not audio"),
            ("short", "has 300 samples"),
            ("empty", "has no transcript"),
            ("crowded", "has 2 frames, its transcript needs 12"),
        ],
    )
    def test_is_refused_by_row_and_left_out_where_asked(
        self, kind, message, broken, clips, encoders, tmp_path, caplog
    ) -> None:
        path = clips["train"].parent / f"{kind}.wav"
        samples = {"short": 300, "crowded": 800}.get(kind, 8000)
        soundfile.write(path, np.sin(np.arange(samples)), 16_000)
        if kind == "unreadable":
            path.write_bytes(b"not a sound")
        text = {"empty": " ?! ", "crowded": "SEE BE SEE"}.get(kind, "BE")
        data = broken({"audio": str(path), "text": text})
        with pytest.raises(ValueError, match=f"(?s)data.train, row {TRAIN}: '.*{kind}.wav' {message}.*skip_bad"):
            self.build(data, encoders["v2"], tmp_path)
        with caplog.at_level(logging.WARNING, logger="data2vec"):
            _, built = self.build(data, encoders["v2"], tmp_path, skip_bad=True)
        assert len(built.train) == TRAIN
        assert sum(built.train.left_out.values()) == 1
        assert f"row {TRAIN} is left out" in caplog.text

    def test_a_crowded_clip_is_still_tested_on(self, clips, encoders, tmp_path) -> None:
        soundfile.write(tmp_path / "x.wav", np.sin(np.arange(800)), 16_000)
        manifest = tmp_path / "test.jsonl"
        manifest.write_text(json.dumps({"audio": str(tmp_path / "x.wav"), "text": "SEE BE SEE"}) + "\n")
        _, data = self.build({**clips, "test": manifest}, encoders["v2"], tmp_path)
        assert len(data.evaluation["test"]) == 1

    def test_rates_differ_and_are_resampled(self, clips, encoders, tmp_path) -> None:
        _, data = self.build(clips, encoders["v2"], tmp_path)
        for i in (0, 1):
            words = json.loads(clips["train"].read_text().splitlines()[i])["text"].split()
            assert len(data.train[i]["input_values"]) == pytest.approx(0.3 * 16_000 * len(words), abs=3)

    def test_letters_that_were_not_trained_on_are_counted_and_count_as_errors(
        self, clips, encoders, tmp_path, caplog
    ) -> None:
        manifest = clips["test"].parent / "letters.jsonl"
        manifest.write_text(json.dumps({"audio": str(clips["test"].parent / "test0.wav"), "text": "bé a Q"}) + "\n")
        with caplog.at_level(logging.WARNING, logger="data2vec"):
            results = run(recipe_of({**clips, "test": manifest}, encoders["v2"], tmp_path / "run", max_steps=1))
        assert "data.test: 1 of 1 transcripts hold letters" in caplog.text and "'É' (1), 'Q' (1)" in caplog.text
        assert results["test"]["wer"] > 0
        row = json.loads((tmp_path / "run" / "predictions" / "test.jsonl").read_text())
        assert row["label"] == "BÉ A Q"
        assert row["wer"] == pytest.approx(results["test"]["wer"])

    def test_an_encoder_without_a_feature_extractor_is_refused(self, clips, tmp_path) -> None:
        encoder = encoder_folder(tmp_path / "encoder", "audio", "v1")
        (encoder / "preprocessor_config.json").unlink()
        with pytest.raises(ValueError, match="comes without a feature extractor"):
            self.build(clips, encoder, tmp_path)

    def test_long_clips_are_left_out_of_training_and_never_cropped(self, clips, encoders, tmp_path, caplog) -> None:
        with caplog.at_level(logging.WARNING, logger="data2vec"):
            _, data = self.build(clips, encoders["v2"], tmp_path, max_seconds=0.7)
        words = [len(json.loads(line)["text"].split()) for line in clips["train"].read_text().splitlines()]
        assert len(data.train) == sum(count <= 2 for count in words) < TRAIN
        assert "clips are left out: longer than" in caplog.text
        assert len(data.evaluation["test"]) == TEST

    @pytest.mark.parametrize(
        ("section", "fields", "message"),
        [
            ("model", {"mask_time_length": 99}, "mask_time_length = 99 is invalid: the shortest"),
            ("model", {"mask_feature_length": 99}, "mask_feature_length = 99"),
            ("model", {"ctc_loss_reduction": "mean"}, "ctc_loss_reduction"),
            ("data", {"labels_per_class": 2}, "labels_per_class"),
            ("data", {"max_seconds": 9, "batch_seconds": 5}, "batch_seconds"),
            ("task", {"letter_case": "title"}, "letter_case"),
            ("task", {"alphas": []}, "alphas"),
            ("task", {"language_model_words": "x"}, "language_model_words"),
        ],
    )
    def test_a_field_that_is_not_possible_is_named(self, section, fields, message, clips, encoders, tmp_path) -> None:
        recipe = recipe_of(clips, encoders["v1"], tmp_path / "run")
        recipe[section] |= fields
        with pytest.raises(ValueError, match=message):
            SpeechRecognition(resolve(recipe, SpeechRecognition)).build_data()


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("pyctcdecode", "kenlm")),
    reason="pyctcdecode and kenlm are not installed: `make lm`",
)
def test_a_language_model_is_tuned_saved_and_used_by_the_pipeline(clips, encoders, tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(json.loads(line)["text"] for line in clips["train"].read_text().splitlines()))
    train_ngram(["--data", str(text), "--order", "2", str(tmp_path / "lm.arpa")])
    recipe = recipe_of(clips, encoders["v2"], tmp_path / "run", max_steps=1)
    recipe["task"] = {
        "language_model": str(tmp_path / "lm.arpa"), "beam_width": 4, "alphas": [0.5, 1.5], "betas": [0.0],
    }  # fmt: skip
    results = run(recipe)
    chosen = results["language_model"]
    assert chosen["alpha"] in (0.5, 1.5) and len(chosen["tried"]) == 2
    assert chosen["tuned_on"]["wer"] == min(row["wer"] for row in chosen["tried"])
    assert results["validation"]["lm_wer"] == pytest.approx(chosen["tuned_on"]["wer"])
    assert results["main"]["metric"] == "lm_wer"

    processor = AutoProcessor.from_pretrained(tmp_path / "run", trust_remote_code=True)
    assert type(processor).__name__ == "Wav2Vec2ProcessorWithLM"
    assert processor.language_model.alpha == chosen["alpha"]
    clip = clips["test"].parent / "test0.wav"
    done = subprocess.run(
        [warm_python(), "-c", PIPELINE, str(tmp_path / "run"), str(clip), "v2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[0] == "ctc_with_lm"
