"""What a card says of each modality: the Hub's words, limits, and code to read an input."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...pretraining.data.modality import Registry
from ...pretraining.modalities.audio import AudioData
from ...pretraining.modalities.av_speech import AvSpeechData
from ...pretraining.modalities.image import ImageData
from ...pretraining.modalities.points import PointsData
from ...pretraining.modalities.skeleton_video import SkeletonVideoData
from ...pretraining.modalities.spectrogram import SpectrogramData
from ...pretraining.modalities.text import TextData
from ...pretraining.modalities.volume import VolumeData


@dataclass(frozen=True)
class CardWords:
    """
    Attributes:
        tag: for the Hub.
        limits: what such an encoder knows, in a sentence.
        example: `config.json` -> a line of Python that makes an `example` to be replaced by a real one.
        imports: what that line needs.
        call: of the `processor` on the example.
        encoder_options: of the stock model of data2vec 1.
        has_language: whether a card says which language it is.
        tasks: what the saved class ends in -> the Hub's task.
        classification: the Hub's task of a probe.
        fine_tuning: an Auto class, and script and recipe of this package; `None` where it has none.
    """

    tag: str
    limits: str
    example: Callable[[Mapping[str, Any]], str]
    imports: tuple[str, ...] = ()
    call: str = 'processor(example, return_tensors="pt")'
    encoder_options: str = ""
    has_language: bool = False
    tasks: Mapping[str, str] = field(default_factory=lambda: {"Model": "feature-extraction"})
    classification: str = "other"
    fine_tuning: tuple[str, str, str] | None = None


CARD_WORDS: Registry[CardWords] = Registry(
    "card words",
    {
        AudioData: CardWords(
            tag="speech",
            limits="It knows the kinds of sound, the languages and the recording conditions of its training data. It "
            "takes mono audio at its processor's sampling rate.",
            example=lambda config: "example = np.zeros(16_000, dtype=np.float32)  # your clip: mono, at 16 kHz",
            imports=("import numpy as np",),
            call='processor(example, sampling_rate=processor.sampling_rate, return_tensors="pt")',
            has_language=True,
            tasks={
                "ForCTC": "automatic-speech-recognition",
                "ForSequenceClassification": "audio-classification",
                "Model": "feature-extraction",
            },
            classification="audio-classification",
            fine_tuning=("AutoModelForAudioClassification", "run_audio_classification.py", "spoken_digits_small.yaml"),
        ),
        SpectrogramData: CardWords(
            tag="audio",
            limits="It knows the kinds of sound of its training data. It takes mono audio at its processor's sampling "
            "rate.",
            example=lambda config: "example = np.zeros(16_000, dtype=np.float32)  # your clip: mono, at 16 kHz",
            imports=("import numpy as np",),
            call='processor(example, sampling_rate=processor.sampling_rate, return_tensors="pt")',
            tasks={"ForAudioClassification": "audio-classification", "Model": "feature-extraction"},
            classification="audio-classification",
            fine_tuning=("AutoModelForAudioClassification", "run_audio_classification.py", "esc10_eat.yaml"),
        ),
        ImageData: CardWords(
            tag="vision",
            limits="It knows the kinds of image of its training data, at the size in `config.json`.",
            example=lambda config: (
                f'example = Image.new("{"L" if config.get("num_channels") == 1 else "RGB"}", (64, 64))'
                '  # Image.open("your picture.png")'
            ),
            imports=("from PIL import Image",),
            tasks={"ForImageClassification": "image-classification", "Model": "image-feature-extraction"},
            classification="image-classification",
            fine_tuning=("AutoModelForImageClassification", "run_image_classification.py", "fashion_mnist_small.yaml"),
        ),
        AvSpeechData: CardWords(
            tag="speech",
            limits="It knows the languages, the faces and the recording conditions of its training data. It takes "
            "mono sound at 16 kHz, grey crops of the mouth at 25 frames per second, or both.",
            example=lambda config: "example = np.zeros(16_000, dtype=np.float32)  # your clip: mono, at 16 kHz",
            imports=("import numpy as np",),
            has_language=True,
            tasks={"ForCTC": "automatic-speech-recognition", "Model": "feature-extraction"},
            classification="audio-classification",
        ),
        SkeletonVideoData: CardWords(
            tag="video",
            limits="It knows the kinds of movement and of film of its training data, cropped around the persons. It "
            "reads video, skeletons or both.",
            example=lambda config: (
                f"example = np.zeros((40, {config['image_size']}, {config['image_size']}, {config['num_channels']}), "
                "dtype=np.uint8)  # your clip: frames, height, width, channels"
            ),
            imports=("import numpy as np",),
            tasks={"ForVideoClassification": "video-classification", "Model": "feature-extraction"},
            classification="video-classification",
        ),
        TextData: CardWords(
            tag="text",
            limits="It knows the languages and the kinds of text of its training data, split as its tokenizer splits "
            "them.",
            example=lambda config: 'example = "your text"',
            # or it makes a pooler of random weights, and says so
            encoder_options=", add_pooling_layer=False",
            has_language=True,
            tasks={
                "ForSequenceClassification": "text-classification",
                "ForTokenClassification": "token-classification",
                "ForQuestionAnswering": "question-answering",
                "Model": "feature-extraction",
            },
            classification="text-classification",
            fine_tuning=("AutoModelForSequenceClassification", "run_glue.py", "glue_small.yaml"),
        ),
        VolumeData: CardWords(
            tag="volumes",
            limits="It knows the organs, the scanners and the intensities of its training data, at the size and in "
            "the window of its processor. It is no medical device.",
            example=lambda config: (
                "example = np.zeros((16, 192, 192), dtype=np.float32)  # your volume: depth, height, width"
            ),
            imports=("import numpy as np",),
            call="processor(example)",
            tasks={"ForImageClassification": "image-classification", "Model": "feature-extraction"},
        ),
        PointsData: CardWords(
            tag="point-cloud",
            limits="It knows the kinds of object of its training data, standing as they stood there, at about as many "
            "points as its processor's `num_points`.",
            example=lambda config: (
                "example = np.random.default_rng(0).normal(size=(2048, 3))  # your cloud: points, 3"
            ),
            imports=("import numpy as np",),
            call="processor(example)",
        ),
    },
)
