"""`card.yaml`: what only a person can say about a model, kept in its run folder. No field is for a measured number.

Given once, on the command line or in the file; `write` keeps it, so that a card can be rendered again.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ...pretraining.checkpoints.run_files import write_text
from ...pretraining.data.arguments import CheckedArguments
from ...pretraining.recipe import parse_yaml
from .hub_terms import GLUE, LANGUAGE, LICENSES, LICENSES_PAGE


FILE = "card.yaml"


@dataclass(kw_only=True)
class CardFields(CheckedArguments):
    """The fields of `card.yaml`."""

    where: ClassVar[str] = FILE

    license: str = field(metadata={"help": "licence of the model, as the Hub calls it: apache-2.0, cc-by-4.0, ..."})
    license_name: str | None = field(default=None, metadata={"help": "its name, where license is other"})
    license_link: str | None = field(default=None, metadata={"help": "where it can be read, where license is other"})
    language: list[str] | None = field(default=None, metadata={"help": "of speech and text, as ISO 639 codes: en de"})
    datasets: list[str] | None = field(
        default=None, metadata={"help": "the training data on the Hub: openslr/librispeech_asr"}
    )
    dataset_names: dict[str, str] | None = field(
        default=None, metadata={"help": "what its data is called, by the folder: '{my_digits: Spoken digits}'"}
    )
    data_license: str | None = field(
        default=None, metadata={"help": "licence of the training data, where the recipe's sources do not say it"}
    )
    base_model: str | None = field(default=None, metadata={"help": "the model on the Hub that this one started from"})
    model_name: str | None = field(default=None, metadata={"help": "of the page (default: the folder's)"})
    authors: str | None = field(default=None, metadata={"help": "who made it"})
    summary: str | None = field(default=None, metadata={"help": "what it is, in a sentence of yours"})
    limits: str | None = field(default=None, metadata={"help": "what it is not for, and where it is known to fail"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("license", "data_license"):
            value = getattr(self, name)
            self.require(value is None or value in LICENSES, name, f"use one of {LICENSES_PAGE}, other for any else")
        named = self.license_name is not None and self.license_link is not None
        self.require(self.license != "other" or named, "license", "give license_name and license_link with it")
        for code in self.language or []:
            self.require(bool(LANGUAGE.fullmatch(code)), "language", f"{code!r} is no ISO 639 code, such as en or deu")
        for name, ids in (
            ("datasets", self.datasets or []),
            ("base_model", [self.base_model] if self.base_model else []),
        ):
            for repo_id in ids:
                try:
                    validate_repo_id(repo_id)
                except HFValidationError:
                    self.refuse(name, "name it as on the Hub: OWNER/NAME")

    def said_name(self, path: str) -> str | None:
        """What a person calls the data set at a path, given whole or by its last part."""
        names = self.dataset_names or {}
        return names.get(path) or names.get(PurePosixPath(path).name)

    def dataset_names_of(self, path: str) -> tuple[str, str]:
        """Type and name of the data set at a path, in the Hub's words.

        Its name there, where the card says so; else the last part of the folder, which tells no place, and what was
        said.
        """
        said, folder = self.said_name(path) or path, PurePosixPath(path).name.replace(":", "-")
        if said in (*(self.datasets or []), GLUE):
            return said, said
        return folder, folder if said == path else said

    @classmethod
    def load(cls, folder: Path, given: dict[str, Any]) -> Self:
        """`card.yaml` of a run folder with what was `given` on top.

        Raises:
            ValueError: an unknown field or an invalid value; there is no licence.
        """
        file = folder / FILE
        kept = parse_yaml(file.read_text(encoding="utf-8"), str(file)) if file.is_file() else {}
        if not isinstance(kept, dict):
            raise ValueError(f"{file}: give fields, of {', '.join(f.name for f in fields(cls))}.")
        values = kept | given
        if not values.get("license"):
            raise ValueError(
                "license is missing: say once under which licence the model is given, --license apache-2.0 for "
                f"example ({LICENSES_PAGE}); it is kept in {file}."
            )
        return cls.from_dict(values)

    def write(self, folder: Path) -> None:
        """Keep what was said in `card.yaml`."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        write_text(folder / FILE, yaml.safe_dump(said, sort_keys=False, allow_unicode=True))
