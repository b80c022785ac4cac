"""The processor of a converted model: what turns a clip, an image or a text into its inputs."""

import json
from pathlib import Path
from typing import Any

from transformers import (
    BeitImageProcessorPil,
    PreTrainedConfig,
    RobertaTokenizer,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALVES = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]  # in front of every dictionary of the original


def feature_extractor(task: dict[str, Any]) -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=task.get("sample_rate", 16_000),
        padding_value=0.0,
        do_normalize=bool(task.get("normalize", True)),
        return_attention_mask=True,
    )


def image_processor(config: PreTrainedConfig, task: dict[str, Any], halves: bool) -> BeitImageProcessorPil:
    mean, std = HALVES if halves else IMAGENET
    size = config.image_size
    return BeitImageProcessorPil(
        do_resize=True,
        size={"height": size, "width": size},
        do_center_crop=False,
        do_reduce_labels=False,
        image_mean=task.get("normalization_mean", mean),
        image_std=task.get("normalization_std", std),
    )


def symbols(path: Path) -> list[str]:
    """The symbols of a dictionary of the original: one a line, each with its count."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a dictionary: {error}") from error
    return [line.rsplit(" ", 1)[0] for line in lines if line.strip()]


def ctc_processor(dictionary: Path, config: PreTrainedConfig, task: dict[str, Any], folder: Path) -> Wav2Vec2Processor:
    """Feature extractor and letters. The blank, which is `<s>` in the original, is `<pad>` here, as token 0.

    Raises:
        ValueError: the dictionary has another number of letters than the model.
    """
    letters = symbols(dictionary)
    if len(letters) + len(SPECIALS) != config.vocab_size:
        raise ValueError(
            f"{dictionary} has {len(letters)} letters, the model has {config.vocab_size - len(SPECIALS)} beside "
            f"{len(SPECIALS)} special tokens: it is another model's dictionary."
        )
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {letter: number for number, letter in enumerate(letters, len(SPECIALS))}
    file = folder / "vocab.json"
    file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(
        str(file), unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", word_delimiter_token="|"
    )
    return Wav2Vec2Processor(feature_extractor=feature_extractor(task), tokenizer=tokenizer)


def text_tokenizer(dictionary: Path, config: PreTrainedConfig) -> RobertaTokenizer | None:
    """RoBERTa's tokenizer with the dictionary's numbers; `None` without GPT-2's `encoder.json` and `vocab.bpe` beside.

    Raises:
        ValueError: the dictionary does not fit the model or GPT-2's vocabulary.
    """
    encoder, merges = dictionary.parent / "encoder.json", dictionary.parent / "vocab.bpe"
    if not (encoder.is_file() and merges.is_file()):
        return None
    lines = symbols(dictionary)
    if len(lines) + len(SPECIALS) + 1 != config.vocab_size:  # <mask> comes last
        raise ValueError(
            f"{dictionary} has {len(lines)} entries, the model has {config.vocab_size - len(SPECIALS) - 1} beside "
            f"{len(SPECIALS) + 1} special tokens: it is another model's dictionary."
        )
    words = {str(number): word for word, number in json.loads(encoder.read_text(encoding="utf-8")).items()}
    vocabulary = {special: number for number, special in enumerate(SPECIALS)}
    vocabulary |= {words.get(line, line): number for number, line in enumerate(lines, len(SPECIALS))}
    vocabulary["<mask>"] = config.vocab_size - 1
    lines = [line for line in merges.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pairs: Any = [tuple(line.split()) for line in lines]  # annotated as strings there, wanted as pairs
    longest = config.max_position_embeddings - config.pad_token_id - 1  # what a pipeline cuts to
    return RobertaTokenizer(vocab=vocabulary, merges=pairs, model_max_length=longest)
