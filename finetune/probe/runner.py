"""A probe from its recipe to its folder.

    features/ENCODER/SPLIT/    feature files, see features.py; ENCODER is pretrained, untrained0, ...
    results.json, report.md    what the probes found
    layers.png                 accuracy, or R² of numbers, over depth
    few_labels.png             accuracy over labels per class

Started again, an interrupted probe computes the feature files that are missing, and a finished one says so.
"""

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    PreTrainedModel,
)

from ...pretraining.checkpoints.run_files import WHOLE
from ...pretraining.checkpoints.run_folder import check_same_recipe, identity_of, write_run_files
from ...pretraining.data.labels import holds_decimals, number_labels, read_numbers
from ...pretraining.data.modality import Modality
from ...pretraining.data.sources import load_source, open_source
from ...pretraining.evaluation.probe import teacher_encoder, untrained_encoder
from ...pretraining.evaluation.raw_features import raw_features
from ...pretraining.modalities.build import modality_of
from ...pretraining.modalities.tokenizer import max_tokens
from ..arguments import FineTuneRun
from ..command_line import SECTIONS
from ..examples import Examples
from ..runner import FREE, RESULTS
from .arguments import ProbeData, ProbeTask
from .features import FeatureFolder, fingerprint, fingerprint_of_labels, write_features
from .kinds import ProbeLabels, Rows, kind_of
from .layers import Fold, Network, probe_everything
from .report import describe


LONGEST_TEXT = 512  # tokens, where neither recipe nor encoder says less


def probe(run: FineTuneRun) -> dict[str, Any]:
    """Compute features, probe them, write the folder; returns what results.json holds.

    Raises:
        ValueError: the recipe, the data or the folder cannot be used; the message names the field or the row.
    """
    args: ProbeTask = run.task
    _check(run)
    if (run.folder / RESULTS).is_file():
        print(f"{run.folder} is finished: its {RESULTS} holds the results. Use another output_dir to repeat it.")
        results: dict[str, Any] = json.loads((run.folder / RESULTS).read_text(encoding="utf-8"))
        return results
    main = run.training.process_index == 0
    if main:
        write_run_files(run.folder, run.recipe)
    modality = open_modality(run)
    with run.training.main_process_first(desc="opening the data"):
        splits, names = open_examples(run, modality)
        if args.probes:
            labels = {split: np.asarray(examples.labels) for split, examples in splits.items()}
            args.probes = kind_of(names).probes(args, "probes" in run.recipe["task"], labels)
        groups = None if run.data.group_column is None else group_of_each(run, modality, splits["train"])
    seed = run.training.seed
    encoders = {"pretrained": pretrained_encoder(run)}
    untrained = [f"untrained{number}" for number in range(args.untrained if args.probes else 0)]
    for number, name in enumerate(untrained):
        encoders[name] = run.set_padding(untrained_encoder(run.config, seed + number))
    found = {name: _features(run, modality, name, encoder, splits, names) for name, encoder in encoders.items()}
    PartialState().wait_for_everyone()
    if not main:
        return {}
    results = {
        "model": run.checkpoint,
        "model_type": run.config.model_type,
        "weights": args.weights,
        "classes": list(names),
        "examples": {split: len(examples) for split, examples in splits.items()},
        "groups": {} if groups is None else dict(sorted(Counter(groups.tolist()).items())),
        "left_out": {split: dict(examples.left_out) for split, examples in splits.items() if examples.left_out},
        "features": [str(folder.path.relative_to(run.folder)) for of in found.values() for folder, _ in of],
    }
    if args.probes:
        _probe(run, splits, groups, found, untrained, results)
    (run.folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def _check(run: FineTuneRun) -> None:
    check_same_recipe(run.folder, identity_of(run.recipe, SECTIONS, FREE), FREE)
    if run.from_scratch:
        raise ValueError("model.from_scratch = true does not work here: task.untrained says how many such networks.")
    check_layer(run)
    if run.task.probes and run.data.test is None and run.data.group_column is None:
        raise ValueError(
            "data.test = null is invalid: name it, set data.group_column to leave one group of data.train out, or set "
            "task.probes = [] to write features only."
        )


def check_layer(run: FineTuneRun) -> None:
    """Raises ValueError where the encoder has no such layer."""
    blocks = run.config.num_hidden_layers + getattr(run.config, "num_prenet_layers", 0)
    layer = run.task.layer
    if isinstance(layer, int) and not 0 <= layer <= blocks:
        run.task.refuse("layer", f"the encoder has layers 0 to {blocks}")


def pretrained_encoder(run: FineTuneRun, **options: Any) -> PreTrainedModel:
    """The student, or the teacher where `task.weights` asks for it, in fp32 and in eval mode.

    Args:
        options: of `from_pretrained`.

    Raises:
        ValueError: the checkpoint has no teacher.
    """
    how: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False, **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.training.seed)  # a pooler that no checkpoint has would differ in every process
        if run.task.weights == "student":
            encoder = AutoModel.from_pretrained(run.checkpoint, config=copy.deepcopy(run.config), **how)
            return run.set_padding(encoder).eval()
        for place in ({}, {"subfolder": WHOLE}):  # of student, teacher and decoder
            try:
                config = AutoConfig.from_pretrained(run.checkpoint, trust_remote_code=False, **place)
            except (OSError, ValueError):
                continue
            if any(name.endswith("ForPreTraining") for name in config.architectures or []):
                how |= {**place, **run.config_overrides}
                return run.set_padding(teacher_encoder(AutoModelForPreTraining.from_pretrained(run.checkpoint, **how)))
    raise ValueError(
        f"task.weights = 'teacher' is invalid: {run.checkpoint} holds an encoder alone. Name the folder of a "
        f"pretraining run with its sub-folder {WHOLE}, or use weights: student."
    )


def open_modality(run: FineTuneRun) -> Modality[Any]:
    """How inputs are read: as in pretraining, without augmentation."""
    data: ProbeData = run.data
    modality_class = modality_of(run.config)
    config: Any = run.config
    limits: dict[str, Any] = {"max_seconds": data.max_seconds, "min_seconds": 0.0}
    known = {field.name for field in dataclasses.fields(modality_class.arguments_class)}
    if "block_size" in known:
        has_positions = hasattr(config, "max_position_embeddings")
        longest = min(LONGEST_TEXT, max_tokens(config)) if has_positions else LONGEST_TEXT
        limits["block_size"] = data.max_tokens or longest
    settings = {name: value for name, value in limits.items() if name in known}
    try:
        reading = modality_class.arguments_class(sources=[data.train], num_proc=data.num_proc, **settings)
        return modality_class(reading, config, modality_class.open_processor(run.checkpoint))
    except ValueError as error:
        raise ValueError(str(error).replace("data.block_size", "data.max_tokens")) from error


def open_examples(run: FineTuneRun, modality: Modality[Any]) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """The examples of every split that the recipe names, and the classes' names.

    There are none where nothing is labelled, and where the labels are numbers: floats, or text with decimals.
    """
    data: ProbeData = run.data
    sources = {"train": data.train, "test": data.test}
    given = {split: source for split, source in sources.items() if source is not None}
    labelled = bool(run.task.probes) or all(
        source.label_column in open_source(source, modality.kind, default_split=split).features
        for split, source in given.items()
    )
    rows: dict[str, datasets.Dataset] = {
        split: load_source(
            source,
            modality.kind,
            default_split=split,
            label_column=source.label_column if labelled else None,
            **modality.source_options,
        )
        for split, source in given.items()
    }
    read = read_numbers if labelled and holds_decimals(rows["train"]) else number_labels
    labels = read(rows) if labelled else None
    examples = {}
    for split, dataset in rows.items():
        numbers = None if labels is None else labels.numbers[split]
        bad = {} if labels is None else labels.bad[split]
        keep = np.setdiff1d(np.arange(len(dataset)), list(bad))
        if data.max_examples is not None and len(keep) > data.max_examples:
            keep = np.sort(np.random.default_rng(run.training.seed).permutation(keep)[: data.max_examples])
        examples[split] = Examples(
            modality.prepare(dataset, packed=False),
            lambda row, rng: modality.read(row, None),
            name=split,
            seed=run.training.seed,
            labels=numbers,
            keep=keep,
            bad=bad,
            skip_bad=data.skip_bad,
            num_proc=data.num_proc,
        )
    return examples, () if labels is None else labels.names


def group_of_each(run: FineTuneRun, modality: Modality[Any], examples: Examples) -> np.ndarray:
    """The values of `data.group_column`, as text, of the training examples `(examples,)`.

    Raises:
        ValueError: there is no such column, an example has no value, or all have the same.
    """
    data: ProbeData = run.data
    rows: Any = open_source(
        data.train, modality.kind, default_split="train", labelled=bool(run.task.probes), **modality.source_options
    )
    if data.group_column not in rows.features:
        data.refuse(
            "group_column",
            f"the columns of data.train are {', '.join(rows.features)}; files in folders need a table that lists them "
            "(csv or jsonl) with such a column",
        )
    values = rows.with_format(None)[data.group_column]
    groups = ["" if values[int(row)] is None else str(values[int(row)]) for row in examples.kept]
    if "" in groups:
        row = examples.kept[groups.index("")]
        data.refuse("group_column", f"row {row} of data.train has no value there, fill it in or drop the row")
    if len(set(groups)) < 2:
        data.refuse("group_column", f"all rows of data.train are of one group, {groups[0]!r}: name another column")
    return np.array(groups)


Found = list[tuple[FeatureFolder, int]]  # of every split: where its features are, in how many parts


def _features(
    run: FineTuneRun,
    modality: Modality[Any],
    name: str,
    encoder: PreTrainedModel,
    splits: dict[str, Examples],
    classes: Sequence[str],
) -> Found:
    """Write the features of all splits from one encoder."""
    args: ProbeTask = run.task
    training = run.training
    encoder.to(training.device)  # type: ignore[arg-type]
    per_step = "mlp" in args.probes or (args.per_step and name == "pretrained")
    made_from = {
        "model": run.checkpoint if name == "pretrained" else f"the shape of {run.checkpoint}, random weights",
        "weights": fingerprint(encoder),
        "layer": args.layer,
        "per_step": per_step,
        "classes": list(classes),
    }
    found: Found = []
    for split, examples in splits.items():
        path = run.folder / "features" / name / split
        of_split = {"examples": len(examples), "labels": fingerprint_of_labels(examples.labels)}
        folder = FeatureFolder(path, args.format, {**made_from, **of_split})
        parts = write_features(
            encoder,
            examples,
            modality.collator(None, training.seed),
            folder,
            layer=args.layer,
            pooled=not per_step,
            modality=modality,
            batch_size=training.per_device_eval_batch_size,
            process=(training.process_index, training.world_size),
            title=f"{name}, {split}",
        )
        found.append((folder, parts))
    encoder.to("cpu")  # type: ignore[arg-type]
    return found


def _probe(
    run: FineTuneRun,
    splits: dict[str, Examples],
    groups: np.ndarray | None,
    found: dict[str, Found],
    untrained: list[str],
    results: dict[str, Any],
) -> None:
    """Probe what was written, add it to `results`, draw and report it."""
    loaded = {name: [folder.load(parts) for folder, parts in of] for name, of in found.items()}
    # of all splits, one after the other
    labels = np.concatenate([numbers for _, numbers in loaded["pretrained"]])  # (examples,)
    layers: dict[str, dict[str, list[np.ndarray]]] = {
        name: {layer: [row for split, _ in of for row in split[layer]] for layer in of[0][0]}
        for name, of in loaded.items()
    }
    read = [part[i] for part in splits.values() for i in range(len(part))] if run.task.raw_features else []
    folds = []
    for train, test in _divisions(len(splits["train"]), len(labels), groups):

        def network(name: str, train: np.ndarray = train, test: np.ndarray = test) -> Network:
            return {layer: (_chosen(rows, train), _chosen(rows, test)) for layer, rows in layers[name].items()}

        sources: dict[str, list[Network]] = {"pretrained": [network("pretrained")]}
        if untrained:
            sources["untrained"] = [network(name) for name in untrained]
        if run.task.raw_features:
            raw = raw_features(modality_of(run.config), [read[i] for i in train], [read[i] for i in test])
            sources |= {name: [{"raw": pair}] for name, pair in raw.items()}
        folds.append(Fold(sources, ProbeLabels(labels[train], labels[test], results["classes"])))
    tested = np.concatenate([fold.labels.test for fold in folds])
    kind = kind_of(results["classes"])
    results |= {"metric": kind.metric, **kind.nothing_known(tested)}
    results["probed"] = probe_everything(folds, run.task, run.training.seed, run.training.device)
    describe(Path(run.folder), results, run.task)


def _divisions(train: int, count: int, groups: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the training and test examples: the first `train` of `count` and the rest, or each group left out."""
    if groups is None:
        return [(np.arange(train), np.arange(train, count))]
    return [(np.flatnonzero(groups != group), np.flatnonzero(groups == group)) for group in np.unique(groups)]


def _chosen(rows: list[np.ndarray], chosen: np.ndarray) -> Rows:
    """The vectors of some examples `(examples, dim)`, or the list of their time steps `(time, dim)`."""
    some = [rows[i] for i in chosen]
    return np.stack(some) if some[0].ndim == 1 else some
