"""The YAML block of a card, as huggingface_hub's `ModelCardData`; the numbers in it are those of the run's files."""

from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ...pretraining.evaluation.report_text import METRIC_NAMES
from .facts import Facts
from .hub_terms import GLUE, METRICS, PIPELINE_NAMES


def card_data(facts: Facts) -> ModelCardData:
    """The metadata of a run folder's card. Raises ValueError where huggingface_hub's classes refuse it."""
    words, results = facts.words, list(evaluations(facts))
    tags = ["data2vec", *facts.method.tags, *(["custom_code"] if facts.own_code else []), facts.of_modality.tag]
    tags += ["self-supervised-learning"] if facts.results is None else []
    return ModelCardData(
        license=words.license,
        license_name=words.license_name,
        license_link=words.license_link,
        language=words.language,
        library_name="transformers",
        tags=tags,
        datasets=words.datasets,
        base_model=words.base_model,
        pipeline_tag=facts.pipeline,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=facts.name,
        eval_results=results or None,
    )


def evaluations(facts: Facts) -> Iterator[EvalResult]:
    """Every measured result of the model itself, with the value that the file holds."""
    yield from _fine_tuned(facts) if facts.results is not None else _encoder(facts)


def _fine_tuned(facts: Facts) -> Iterator[EvalResult]:
    section = facts.section("data")
    task = facts.pipeline or facts.of_modality.classification
    for split, values in (facts.results or {}).items():
        if not isinstance(values, dict) or "examples" not in values:
            continue
        rows, _, streams = split.partition("_")  # test_video: the examples of test, by one stream
        by = f", {streams}" if split not in section and rows in section else ""
        source = section.get(split) or section.get(rows) or section.get("train") or {}
        if section.get("task_name"):
            source = {"path": section.get("glue", GLUE), "name": section["task_name"], "split": split}
        for key, value in values.items():
            if key in METRICS:
                metric, name = METRICS[key]
                yield _result(facts, task, source, split, metric, name + by, value)


def _encoder(facts: Facts) -> Iterator[EvalResult]:
    """The student's accuracies of report.json; without it, those of the last probe during the run."""
    probe = facts.section("data").get("probe")
    if not probe:
        return
    task, split = facts.of_modality.classification, str(probe.get("test_split", "test"))
    report = facts.run.report
    if report is not None:
        labels = report["settings"]["labels_per_class"]
        how = {
            "few_labels": f"few labels ({labels} per class)",
            "fine_tuning": f"fine-tuning ({labels} labels per class)",
        }
        for key, row in report["rows"]["student"].items():
            if key in METRIC_NAMES:
                name = f"accuracy, {how.get(key, METRIC_NAMES[key])}"
                yield _result(facts, task, probe, split, "accuracy", name, row["accuracy"])
        return
    split = str(probe.get("validation_split") or probe.get("train_split", "train"))
    last = facts.logged("probe/knn_student")[-1:]
    for value in last:
        yield _result(facts, task, probe, split, "accuracy", "accuracy, k-NN during the run", value)


def _result(
    facts: Facts, task: str, source: dict[str, Any], split: str, metric: str, name: str, value: float
) -> EvalResult:
    path, config = str(source.get("path", "unknown")), source.get("name")
    dataset, called = facts.words.dataset_names_of(path)
    return EvalResult(
        task_type=task,
        task_name=PIPELINE_NAMES.get(task),
        dataset_type=dataset,
        dataset_name=f"{called} {config}" if config else called,
        dataset_config=config,
        dataset_split=str(source.get("split") or split),
        dataset_args={way: source[way] for way in ("keep", "drop") if source.get(way)} or None,
        metric_type=metric,
        metric_name=name,
        metric_value=value,
    )


def check(card: ModelCard, expected: ModelCardData) -> None:
    """ValueError where the written card, read again by huggingface_hub, does not hold what was put in."""
    again = ModelCard(str(card)).data.to_dict()
    for name, value in expected.to_dict().items():
        if again.get(name) != value:
            raise ValueError(f"The card's {name} is read back as {again.get(name)!r} and was {value!r}.")
