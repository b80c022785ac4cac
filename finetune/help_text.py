"""What `--help` says of each script in this folder: what it does, an example and the page to read."""

from dataclasses import dataclass
from pathlib import Path


RECIPES = Path(__file__).parent / "recipes"
RECIPE_WORDS = """A recipe is a YAML file with the sections model, data, task and training. --field value overrides one
field: --learning_rate 1e-3, --model.hidden_dropout 0.1 or, inside a field, --train.split train; values are YAML.
--from_scratch true is the comparison with random weights."""


@dataclass(frozen=True)
class Words:
    name: str  # of the task, as task.name of a recipe
    what: str
    example: str  # behind the name of the script
    page: str
    data: tuple[str, str]  # module and name of the class that holds the fields of the section
    task: tuple[str, str]


COMMANDS = {
    "run_image_classification.py": Words(
        "image-classification",
        "Fine-tune an encoder for image classification and evaluate it.",
        "fashion_mnist_small.yaml \\\n"
        "    --model_name_or_path runs/my_vision --labels_per_class null \\\n"
        "    --data.train '{path: my_photos/train}' --data.test '{path: my_photos/test}'",
        "docs/tasks/image_classification.md",
        ("data2vec.finetune.image.arguments", "ImageClassificationData"),
        ("data2vec.finetune.image.arguments", "ImageClassificationArguments"),
    ),
    "run_ctc.py": Words(
        "automatic-speech-recognition",
        "Fine-tune an encoder for speech recognition by CTC and evaluate it, with an n-gram language model if one is "
        "given.",
        "librispeech_small.yaml --model_name_or_path runs/my_audio \\\n"
        "    --data.train '{path: train.jsonl}' --data.validation '{path: validation.jsonl}' \\\n"
        "    --data.test '{path: test.jsonl}'",
        "docs/tasks/speech_recognition.md",
        ("data2vec.finetune.ctc.data", "CtcDataArguments"),
        ("data2vec.finetune.ctc.task", "CtcArguments"),
    ),
    "run_glue.py": Words(
        "text-classification",
        "Fine-tune an encoder for text classification and evaluate it: your own texts, one column or a pair, or a "
        "task of GLUE (--task_name rte); --sweep.tasks all makes the papers' sweep and prints GLUE's row.",
        "imdb_small.yaml --model_name_or_path runs/my_text \\\n"
        "    --data.train '{path: my_reviews.csv, label_column: verdict}' --data.test null",
        "docs/tasks/text_classification.md",
        ("data2vec.finetune.text.arguments", "TextClassificationData"),
        ("data2vec.finetune.text.task", "TextClassificationArguments"),
    ),
    "run_audio_classification.py": Words(
        "audio-classification",
        "Fine-tune an encoder for audio classification, one label per clip or several, and evaluate it; a recipe with "
        "folds makes every fold the test set once (--fold 3 one of them).",
        "spoken_digits_small.yaml \\\n"
        "    --model_name_or_path runs/my_audio --data.train '{path: my_sounds/train}' \\\n"
        "    --data.test '{path: my_sounds/test}' --data.validation null --validation_share 0.2",
        "docs/tasks/audio_classification.md",
        ("data2vec.finetune.audio.task", "AudioClassificationData"),
        ("data2vec.finetune.audio.task", "AudioClassificationArguments"),
    ),
    "run_point_cloud_classification.py": Words(
        "point-cloud-classification",
        "Fine-tune an encoder to classify point clouds and evaluate it; with --ways episodes of few-shot learning.",
        "shapes_small.yaml \\\n"
        "    --model_name_or_path runs/my_points --data.validation null --labels_per_class null \\\n"
        "    --data.train '{path: my_scans/train}' --data.test '{path: my_scans/test}'",
        "docs/tasks/point_clouds.md",
        ("data2vec.finetune.points.arguments", "PointCloudClassificationData"),
        ("data2vec.finetune.points.arguments", "PointsTaskArguments"),
    ),
    "run_part_segmentation.py": Words(
        "part-segmentation",
        "Fine-tune an encoder of point clouds to find the parts of objects and evaluate it. A point's last number is "
        "its part.",
        "shapenet_part.yaml --model_name_or_path runs/my_points \\\n"
        "    --data.train '{path: my_objects/train}' --data.test '{path: my_objects/test}'",
        "docs/tasks/point_clouds.md",
        ("data2vec.finetune.points.arguments", "PointsFineTuneData"),
        ("data2vec.finetune.points.arguments", "PointsTaskArguments"),
    ),
    "run_video_classification.py": Words(
        "video-classification",
        "Fine-tune an encoder of videos and skeletons to classify clips by video, skeleton or both, and evaluate it "
        "with each.",
        "figures_small.yaml \\\n"
        "    --model_name_or_path runs/my_video --data.validation null --labels_per_class null \\\n"
        "    --data.train '{path: my_clips/train.parquet}' --data.test '{path: my_clips/test.parquet}'",
        "docs/tasks/videos.md",
        ("data2vec.finetune.data_arguments", "FineTuneDataArguments"),
        ("data2vec.finetune.streams", "StreamsTaskArguments"),
    ),
    "run_probe.py": Words(
        "probe",
        "What a frozen encoder knows: features of every layer, k-NN and linear probes, few labels, beside untrained "
        "and raw features. --probes '[]' only writes features.",
        "probe_audio.yaml --model_name_or_path runs/my_audio \\\n"
        "    --data.train '{path: my_sounds/train}' --data.test '{path: my_sounds/test}'",
        "docs/tasks/frozen_features.md",
        ("data2vec.finetune.probe.arguments", "ProbeData"),
        ("data2vec.finetune.probe.arguments", "ProbeTask"),
    ),
}


def recipes_of(script: str) -> list[str]:
    """The recipes that come with the package for a script; each says its task."""
    said = f"\n  name: {COMMANDS[script].name}\n"
    return sorted(path.name for path in RECIPES.glob("*.yaml") if said in path.read_text("utf-8"))
