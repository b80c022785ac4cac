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

from .checkpoint import Checkpoint
from .original import number, optional_part
from .source import Source


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALVES = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]  # in front of every dictionary of the original
DICTIONARIES = {"input_values": "dict.ltr.txt", "input_ids": "dict.txt"}
LARGEST = 32 << 20  # bytes of a dictionary


def save_processor(
    source: Source, tuned: bool, read: Checkpoint, config: Any, dictionary: Path | None, folder: Path
) -> list[str]:
    """What turns a clip, an image or a text into the model's inputs, and notes on what is missing."""
    if source.processor is not None:
        source.processor(read.cfg, config, tuned).save_pretrained(folder)
        return []
    task = optional_part(read.cfg, "task")
    inputs = source.pretrained.main_input_name
    if inputs == "pixel_values":
        halves = source.halves and not read.cfg["model"].get("imagenet_default_mean_and_std", False)
        image_processor(config, task, halves).save_pretrained(folder)
        return []
    if dictionary is None:
        beside = read.path.parent / DICTIONARIES[inputs]
        dictionary = beside if beside.is_file() else None
    if inputs == "input_values":
        if not tuned or dictionary is None or not hasattr(config, "vocab_size"):
            feature_extractor(task).save_pretrained(folder)
            return ["no tokenizer: give the letters with --dict dict.ltr.txt."] if tuned else []
        ctc_processor(dictionary, config, task, folder).save_pretrained(folder)
        return []
    tokenizer = None if dictionary is None else text_tokenizer(dictionary, config)
    if tokenizer is None:
        return ["no tokenizer: give --dict dict.txt, with GPT-2's encoder.json and vocab.bpe beside it."]
    tokenizer.save_pretrained(folder)
    return []


def feature_extractor(task: dict[str, Any]) -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=number(task, "sample_rate", "task", 16_000),
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
        image_mean=[number({"mean": value}, "mean", "task") for value in task.get("normalization_mean") or mean],
        image_std=[number({"std": value}, "std", "task") for value in task.get("normalization_std") or std],
    )


def symbols(path: Path) -> list[str]:
    """The symbols of a dictionary of the original: one per line, each with its count."""
    found = [line.rsplit(" ", 1)[0] for line in read_lines(path) if line.strip()]
    if len(set(found)) != len(found):
        raise ValueError(f"{path} has an entry twice: it is no dictionary of the original.")
    return found


def read_lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a dictionary: {error}") from error


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
    try:
        words = {str(place): str(word) for word, place in json.loads("\n".join(read_lines(encoder))).items()}
    except (AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"{encoder} is not GPT-2's vocabulary, a word and its number each: {error}") from error
    vocabulary = {special: number for number, special in enumerate(SPECIALS)}
    vocabulary |= {words.get(line, line): number for number, line in enumerate(lines, len(SPECIALS))}
    vocabulary["<mask>"] = config.vocab_size - 1
    pairs: Any = [tuple(line.split()) for line in read_lines(merges) if line and not line.startswith("#")]
    if any(len(pair) != 2 for pair in pairs):  # annotated as strings there, wanted as pairs
        raise ValueError(f"{merges} is not GPT-2's list of merges, two parts per line.")
    longest = config.max_position_embeddings - config.pad_token_id - 1  # what a pipeline cuts to
    return RobertaTokenizer(vocab=vocabulary, merges=pairs, model_max_length=longest)
