"""Sections that need the run's data and weights: masks, map of features, attention, probes of each layer."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...pretraining.console.progress import progress
from ...pretraining.data.modality import Registry
from ...pretraining.evaluation.probe_metrics import METRICS
from ...pretraining.modalities.audio import AudioData
from ...pretraining.modalities.av_speech import AvSpeechData
from ...pretraining.modalities.image import ImageData
from ...pretraining.modalities.points import PointsData
from ...pretraining.modalities.skeleton_video import SkeletonVideoData
from ...pretraining.modalities.spectrogram import SpectrogramData
from ...pretraining.modalities.text import TextData
from ...pretraining.modalities.volume import VolumeData
from ..command_line import MapMethod
from ..folder import Folder
from .draw_audio import AudioDrawing
from .draw_features import MAPPED, feature_map, layers_figure, probe_all_layers, scores_of_probe
from .draw_image import ImageDrawing
from .draw_points import PointsDrawing
from .draw_spectrogram import SpectrogramDrawing
from .draw_streams import StreamsDrawing, frames_of, joints_of, sound_of
from .draw_text import TextDrawing
from .draw_volume import VolumeDrawing
from .figures import Drawing, Group
from .inputs import Inputs, Labelled, Masked
from .page import Column, Section, Table


logger = logging.getLogger(__name__)

EXAMPLES = 3  # shown with their masks
LOOKED_AT = 2  # of them, with attention
PROBED = 2000  # labelled examples of each split, as in the report of a run

DRAWINGS: Registry[Drawing] = Registry(
    "drawing",
    {
        ImageData: ImageDrawing(),
        AudioData: AudioDrawing(),
        SpectrogramData: SpectrogramDrawing(),
        AvSpeechData: StreamsDrawing({"audio": sound_of, "video": frames_of}),
        SkeletonVideoData: StreamsDrawing({"video": frames_of, "skeleton": joints_of}),
        TextData: TextDrawing(),
        PointsData: PointsDrawing(),
        VolumeData: VolumeDrawing(),
    },
)


@dataclass
class RunPictures:
    """The pictures of one run; what they need is opened once."""

    folder: Folder
    name: str
    prefix: str  # of the names of its pictures
    method: MapMethod
    compute_layers: bool

    @cached_property
    def inputs(self) -> Inputs:
        return Inputs(self.folder)

    @cached_property
    def drawing(self) -> Drawing:
        return DRAWINGS[type(self.inputs.modality)]

    @cached_property
    def examples(self) -> list[Masked]:
        return self.inputs.masked(self.inputs.examples(EXAMPLES))

    @property
    def looked_at(self) -> list[Masked]:
        """Those of the masks or, where the training data is not at hand, labelled ones."""
        try:
            return self.examples[:LOOKED_AT]
        except ValueError:
            if self.inputs.args.probe is None:
                raise
            return self.inputs.masked(self.labelled.test[:LOOKED_AT])

    @cached_property
    def encoder(self) -> PreTrainedModel:
        return self.inputs.encoder()

    @cached_property
    def labelled(self) -> Labelled:
        return self.inputs.labelled(PROBED if self.compute_layers else MAPPED)

    def masks(self) -> Column:
        return Column(
            groups=[
                Group(
                    f"Example {number}: {_short(example.name)}",
                    self.drawing.masks(self.inputs, example, f"{self.prefix}mask{number}"),
                    self.drawing.kind,
                )
                for number, example in enumerate(self.examples, 1)
            ]
        )

    def features(self) -> Column:
        names: tuple[str, ...] = ()
        if self.inputs.args.probe is None:
            examples = self.inputs.examples(MAPPED)
        else:
            names, examples = self.labelled.names, list(self.labelled.test)
        drawn = feature_map(self.inputs, self.encoder, examples, names, self.method, f"{self.prefix}features")
        return Column(groups=[Group("", [drawn])])

    def attention(self) -> Column:
        groups = []
        for number, example in enumerate(self.looked_at, 1):
            maps = self.inputs.attention(self.encoder, example.batch)
            figures = self.drawing.attention(self.inputs, example, maps, f"{self.prefix}attention{number}")
            groups.append(Group(f"Example {number}: {_short(example.name)}", figures, self.drawing.kind))
        return Column(groups=groups)

    def layers(self) -> Column:
        words = []
        if self.compute_layers:
            scores, metric = probe_all_layers(self.inputs, self.encoder, self.labelled), METRICS["accuracy"]
            words = [
                f"Computed for this page on {len(self.labelled.train)} training and {len(self.labelled.test)} test "
                "examples of data.probe. Untrained: the same network with random weights."
            ]
        elif self.folder.probe is not None:
            path, results = self.folder.probe
            scores, metric = scores_of_probe(results)
            words = [f"From {path}."]
        else:
            raise ValueError(
                "Layers were not probed: add --layers to this command, which probes data.probe now, or "
                "run `data2vec probe` with its output_dir in this folder."
            )
        kinds = {"linear": "linear probe", "knn": "k-NN"}
        heads = [f"{source}, {called}" for source in scores for called in kinds.values()]
        rows = [
            [
                layer.replace("_", " "),
                *(metric.written(scores[source].get(layer, {}).get(kind)) for source in scores for kind in kinds),
            ]
            for layer in next(iter(scores.values()))
        ]
        table = Table(f"{metric.heading}, by layer", ["", *heads], rows)
        drawn = layers_figure(scores, f"{self.prefix}layers", metric)
        return Column(words=words, groups=[Group("", [drawn])], tables=[table])


def _short(name: str) -> str:
    """A file's name with its folder's, which may be its class."""
    return "/".join(Path(name).parts[-2:])


# key -> title, intro, what a run shows
SECTIONS: dict[str, tuple[str, str, Callable[[RunPictures], Column]]] = {
    "masks": (
        "What the student does not see",
        "Training examples of the run with the masks of its own seed. The teacher computes the targets from the "
        "whole input; the student predicts them where the input is hidden.",
        RunPictures.masks,
    ),
    "features": (
        "Map of the features",
        "The frozen encoder's output, averaged over time, one point per example. Classes apart are classes that a "
        "simple classifier could tell apart; in two dimensions much is lost.",
        RunPictures.features,
    ),
    "attention": (
        "Attention",
        "How much each part of the input is looked at, averaged over heads, in the encoder as it is after the run.",
        RunPictures.attention,
    ),
    "layers": (
        "Probes of each layer",
        "What simple probes make of each layer's frozen features.",
        RunPictures.layers,
    ),
}


def picture_sections(
    folders: Mapping[str, Folder], method: MapMethod, compute_layers: bool, keys: Collection[str] = tuple(SECTIONS)
) -> list[Section]:
    """The sections of these keys; a picture that cannot be made is replaced by the reason."""
    several = len(folders) > 1
    runs = [
        RunPictures(folder, name, f"run{number}_" if several else "", method, compute_layers)
        for number, (name, folder) in enumerate(folders.items(), 1)
    ]
    sections = []
    with progress(title="Drawing", unit="section", total=len(keys) * len(runs)) as bar:
        for key in keys:
            title, intro, show = SECTIONS[key]
            columns = []
            for run in runs:
                columns.append(_or_why_not(run, show, several))
                bar.update()
            sections.append(Section(key, title, intro, columns))
    return sections


def _or_why_not(run: RunPictures, show: Callable[[RunPictures], Column], several: bool) -> Column:
    named: dict[str, Any] = {"run": run.name if several else ""}
    try:
        column = show(run)
    except ValueError as error:  # written for the user
        return Column(**named, absent=f"Not shown. {str(error).rstrip('. ')}.{_from_where(run, error)}")
    except Exception as error:  # a damaged file can raise anything in the libraries that read it: the page goes on
        logger.warning("%s: %s", run.folder.path, error, exc_info=error)
        return Column(**named, absent=f"Not shown. {type(error).__name__}: {error}")
    return Column(**named, words=column.words, groups=column.groups, tables=column.tables)


def _from_where(run: RunPictures, error: Exception) -> str:
    relative = [source.path for source in run.inputs.args.sources] if "inputs" in vars(run) else []
    if "cannot be opened" not in str(error) or not any(not path.startswith(("/", "builtin:")) for path in relative):
        return ""
    return " A recipe's relative paths start where the run was started: start this command there."
