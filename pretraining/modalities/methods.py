"""The model types that can be pretrained, and the methods that they belong to: an entry for each, read by all layers.

Nothing here imports torch: `--help` and slips on a command line are answered from it at once.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple


class Home(NamedTuple):
    """Where a class is defined."""

    module: str
    name: str

    def open(self) -> Any:
        return getattr(import_module(self.module), self.name)


@dataclass(frozen=True)
class Method:
    """A published method, as the card of a model cites it.

    Attributes:
        name: in words, "data2vec 2.0".
        key: of its BibTeX entry.
        arxiv: its number there; `None`: not on arXiv.
        tags: for the Hub, besides data2vec and the modality's.
        learns: what pretraining does, to go on "pretrained without labels: ".
    """

    name: str
    key: str
    title: str
    authors: str
    venue: str
    year: int
    arxiv: str | None = None
    tags: tuple[str, ...] = ()
    learns: str = (
        "a student that sees a masked input learned to predict\n"
        "what its own moving average, the teacher, computes from the whole input"
    )

    @property
    def with_article(self) -> str:
        """The name as a sentence begins with it: "A data2vec 2.0", "An EAT"."""
        return f"{'An' if self.name[0] in 'AEIOaeio' else 'A'} {self.name}"

    @property
    def reference(self) -> str:
        """A link to the paper, or where it was published."""
        return (
            f"[arXiv {self.arxiv}](https://arxiv.org/abs/{self.arxiv})" if self.arxiv else f"{self.venue} {self.year}"
        )

    @property
    def bibtex(self) -> str:
        return (
            f"@inproceedings{{{self.key},\n"
            f"  title     = {{{self.title}}},\n"
            f"  author    = {{{self.authors}}},\n"
            f"  booktitle = {{{self.venue}}},\n"
            f"  year      = {{{self.year}}}\n"
            "}"
        )


OBJECTIVE = Home("data2vec.modeling.configuration_objective", "ObjectiveConfig")


@dataclass(frozen=True)
class Reads:
    """What a model type is trained on: a `Modality`, and the class of the fields of `data`."""

    name: str  # in --help
    modality: Home
    arguments: Home


@dataclass(frozen=True)
class ModelType:
    """
    Attributes:
        config: its configuration, whose fields are those of `model`.
        objective: the class of the fields of `objective`.
        pretraining_fields: further ones, which our pretraining model reads from a configuration of `transformers`.
    """

    method: Method
    reads: Reads
    config: Home
    pretraining_fields: tuple[str, ...] = ()
    objective: Home = OBJECTIVE


def _reads(name: str, module: str, modality: str) -> Reads:
    """Of a module of this room, with its arguments beside it."""
    home = f"data2vec.pretraining.modalities.{module}"
    return Reads(name, Home(home, modality), Home(home, f"{modality}Arguments"))


AUDIO = _reads("audio", "audio", "AudioData")
IMAGES = _reads("vision", "image", "ImageData")
TEXT = _reads("text", "text", "TextData")
SPECTROGRAMS = _reads("spectrograms", "spectrogram", "SpectrogramData")
POINTS = _reads("points", "points", "PointsData")
MOUTHS = _reads("speech with mouth crops", "av_speech", "AvSpeechData")
VOLUMES = _reads("volumes", "volume", "VolumeData")
SKELETON_VIDEOS = _reads("videos with skeletons", "skeleton_video", "SkeletonVideoData")

DATA2VEC = Method(
    name="data2vec 1",
    key="baevski2022data2vec",
    title="data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language",
    authors="Baevski, Alexei and Hsu, Wei-Ning and Xu, Qiantong and Babu, Arun and Gu, Jiatao and Auli, Michael",
    venue="International Conference on Machine Learning",
    year=2022,
    arxiv="2202.03555",
)
DATA2VEC2 = Method(
    name="data2vec 2.0",
    key="baevski2023data2vec2",
    title="Efficient Self-supervised Learning with Contextualized Target Representations "
    "for Vision, Speech and Language",
    authors="Baevski, Alexei and Babu, Arun and Hsu, Wei-Ning and Auli, Michael",
    venue="International Conference on Machine Learning",
    year=2023,
    arxiv="2212.07525",
    tags=("data2vec2",),
)

EAT = Method(
    name="EAT",
    key="chen2024eat",
    title="EAT: Self-Supervised Pre-Training with Efficient Audio Transformer",
    authors="Chen, Wenxi and Liang, Yuzhe and Ma, Ziyang and Zheng, Zhisheng and Chen, Xie",
    venue="International Joint Conference on Artificial Intelligence",
    year=2024,
    arxiv="2401.03497",
    tags=("eat",),
)
EMOTION2VEC = Method(
    name="emotion2vec",
    key="ma2024emotion2vec",
    title="emotion2vec: Self-Supervised Pre-Training for Speech Emotion Representation",
    authors="Ma, Ziyang and Zheng, Zhisheng and Ye, Jiaxin and Li, Jinchao and Gao, Zhifu and Zhang, Shiliang and "
    "Chen, Xie",
    venue="Findings of the Association for Computational Linguistics",
    year=2024,
    arxiv="2312.15185",
    tags=("emotion2vec", "speech-emotion-recognition"),
)
POINT2VEC = Method(
    name="Point2Vec",
    key="abouzeid2023point2vec",
    title="Point2Vec for Self-Supervised Representation Learning on Point Clouds",
    authors="Abou Zeid, Karim and Schult, Jonas and Hermans, Alexander and Leibe, Bastian",
    venue="German Conference on Pattern Recognition",
    year=2023,
    arxiv="2303.16570",
    tags=("point2vec",),
)

AV_DATA2VEC = Method(
    name="AV-data2vec",
    key="lian2023avdata2vec",
    title="AV-data2vec: Self-supervised Learning of Audio-Visual Speech Representations "
    "with Contextualized Target Representations",
    authors="Lian, Jiachen and Baevski, Alexei and Hsu, Wei-Ning and Auli, Michael",
    venue="IEEE Automatic Speech Recognition and Understanding Workshop",
    year=2023,
    arxiv="2302.06419",
    tags=("av-data2vec",),
    learns="a student that hears and sees, or only sees, masked speech learned to predict\n"
    "what its own moving average, the teacher, computes from the whole sound",
)

SV_DATA2VEC = Method(
    name="SV-data2vec",
    key="dozdor2025svdata2vec",
    title="SV-data2vec: Guiding Video Representation Learning with Latent Skeleton Targets",
    authors="Do{\\v{z}}dor, Zorana and Hrkac, Tomislav and Kalafatic, Zoran",
    venue="IEEE/CVF Winter Conference on Applications of Computer Vision",
    year=2025,
    tags=("sv-data2vec",),
    learns="a student that sees a few frames and fewer skeletons learned to predict\n"
    "what its own moving average, the teacher, computes from all skeletons of the clip",
)

MEDCOSS = Method(
    name="MedCoSS",
    key="ye2024medcoss",
    title="Continual Self-supervised Learning: Towards Universal Multi-modal Medical Data Representation Learning",
    authors="Ye, Yiwen and Xie, Yutong and Zhang, Jianpeng and Chen, Ziyang and Wu, Qi and Xia, Yong",
    venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    year=2024,
    arxiv="2311.17597",
    tags=("medcoss",),
    learns="an encoder that learned to fill in what was hidden of its input, one modality after\n"
    "another, and was kept from forgetting by distillation on a few examples of each",
)

STOCK = "transformers.models.data2vec.configuration_data2vec_"
CONFIGS_MEDCOSS = "data2vec.modeling.configuration_medcoss"
CONFIGS2 = "data2vec.modeling.configuration_data2vec2"
UNIVERSAL = "data2vec.modeling.configuration_universal"
BUILT_IN = {
    "data2vec-audio": ModelType(DATA2VEC, AUDIO, Home(f"{STOCK}audio", "Data2VecAudioConfig"), ("deep_norm",)),
    "data2vec-vision": ModelType(DATA2VEC, IMAGES, Home(f"{STOCK}vision", "Data2VecVisionConfig")),
    "data2vec-text": ModelType(DATA2VEC, TEXT, Home(f"{STOCK}text", "Data2VecTextConfig"), ("mask_token_id",)),
    "data2vec2-audio": ModelType(DATA2VEC2, AUDIO, Home(CONFIGS2, "Data2Vec2AudioConfig")),
    "data2vec2-vision": ModelType(DATA2VEC2, IMAGES, Home(CONFIGS2, "Data2Vec2VisionConfig")),
    "data2vec2-text": ModelType(DATA2VEC2, TEXT, Home(CONFIGS2, "Data2Vec2TextConfig")),
    "av-data2vec": ModelType(
        AV_DATA2VEC,
        MOUTHS,
        Home("data2vec.modeling.configuration_av_data2vec", "AvData2VecConfig"),
        objective=Home("data2vec.modeling.configuration_streams", "StreamsObjectiveConfig"),
    ),
    "sv-data2vec": ModelType(
        SV_DATA2VEC,
        SKELETON_VIDEOS,
        Home("data2vec.modeling.configuration_sv_data2vec", "SvData2VecConfig"),
        objective=Home("data2vec.modeling.configuration_streams", "StreamsObjectiveConfig"),
    ),
    "eat": ModelType(EAT, SPECTROGRAMS, Home("data2vec.modeling.configuration_eat", "EatConfig")),
    "emotion2vec": ModelType(
        EMOTION2VEC, AUDIO, Home("data2vec.modeling.configuration_emotion2vec", "Emotion2vecConfig")
    ),
    "medcoss-text": ModelType(MEDCOSS, TEXT, Home(CONFIGS_MEDCOSS, "MedCossTextConfig")),
    "medcoss-image": ModelType(MEDCOSS, IMAGES, Home(CONFIGS_MEDCOSS, "MedCossImageConfig")),
    "medcoss-volume": ModelType(MEDCOSS, VOLUMES, Home(CONFIGS_MEDCOSS, "MedCossVolumeConfig")),
    "point2vec": ModelType(POINT2VEC, POINTS, Home("data2vec.modeling.configuration_point2vec", "Point2VecConfig")),
    "universal-audio": ModelType(DATA2VEC2, AUDIO, Home(UNIVERSAL, "UniversalAudioConfig")),
    "universal-points": ModelType(DATA2VEC2, POINTS, Home(UNIVERSAL, "UniversalPointsConfig")),
    "universal-text": ModelType(DATA2VEC2, TEXT, Home(UNIVERSAL, "UniversalTextConfig")),
    "universal-vision": ModelType(DATA2VEC2, IMAGES, Home(UNIVERSAL, "UniversalVisionConfig")),
}
JOINT = "data2vec2-joint"  # several of them in one model, each with its own data; no published method
# Method of each model type. One of another package that is not here is taken to be of the family whose classes it
# extends; `METHODS["my-type"] = Method(...)` says more.
METHODS = {model_type: built.method for model_type, built in BUILT_IN.items()} | {JOINT: DATA2VEC2}
