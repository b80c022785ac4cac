"""Make a usable folder of a checkpoint: `python -m data2vec.pretraining.consolidate RUN/checkpoint-N OUT`.

OUT becomes what the end of a run leaves: the plain encoder at the top, student, teacher and head in `pretraining/`.
For runs that did not end, and for checkpoints that FSDP2 wrote in shards. One process without a GPU does it.
"""

import sys

from data2vec.pretraining.command_line import answer_early, check_consolidate, consolidate_parser, require_checkpoint


if __name__ == "__main__":
    answer_early(check_consolidate)

import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from transformers import MODEL_FOR_PRETRAINING_MAPPING, AutoConfig

from data2vec.pretraining.checkpoints.hub_push import PROCESSOR, matches
from data2vec.pretraining.checkpoints.run_files import WHOLE
from data2vec.pretraining.console.help import EXIT_REFUSED, end
from data2vec.pretraining.console.progress import progress


SHARDS = "pytorch_model_fsdp_0"  # the folder of FSDP2's shards in a checkpoint
WEIGHTS = "model.safetensors"


def consolidate(checkpoint: Path, out: Path) -> None:
    """Write the encoder, the whole model and the processor of a checkpoint.

    Raises:
        ValueError: `checkpoint` is none, holds no weights or others than its configuration says; `out` is not empty.
    """
    require_checkpoint(checkpoint, out)
    config: Any = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    if type(config) not in MODEL_FOR_PRETRAINING_MAPPING:
        raise ValueError(f"{checkpoint} is a {config.model_type!r}, which is no pretraining model of this package.")
    model_class: Any = MODEL_FOR_PRETRAINING_MAPPING[type(config)]
    with progress(title="consolidating", unit=" steps", total=4) as bar:
        model = model_class(config)
        bar.update()
        try:
            model.load_state_dict(read_weights(checkpoint))
        except RuntimeError as error:
            raise ValueError(
                f"{checkpoint} does not hold the weights that its config.json asks for: {error}"
            ) from error
        bar.update()
        model.save_pretrained(out / WHOLE)
        bar.update()
        model.save_encoder(str(out))
        bar.update()
    for path in checkpoint.rglob("*"):  # of a joint run in a folder a modality
        if path.is_file() and matches(path.name, PROCESSOR):
            for place in (out, out / WHOLE):
                (place / path.relative_to(checkpoint)).parent.mkdir(exist_ok=True)
                shutil.copy(path, place / path.relative_to(checkpoint))


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint of any engine. Nothing of a pickle is run but what describes tensors.

    Raises:
        ValueError: no weights there, or something else than weights in their place.
    """
    if (checkpoint / WEIGHTS).is_file():
        return load_file(checkpoint / WEIGHTS)
    if not (checkpoint / SHARDS / ".metadata").is_file():
        raise ValueError(
            f"{checkpoint} holds neither {WEIGHTS} nor a complete {SHARDS}/: it is no checkpoint of this package, or "
            "it was not written to the end."
        )
    reader = _Shards(checkpoint / SHARDS)
    reader.read_metadata()  # torch wraps what is wrong with it
    loaded: dict[str, Any] = {}
    try:
        _load_state_dict(loaded, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    except CheckpointException as error:
        raise ValueError(f"The shards in {checkpoint / SHARDS} are damaged: {error}") from error
    return loaded["model"]


class _Shards(FileSystemReader):
    """torch's reader of shards, which reads tensors safely but runs any pickle that describes them."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            try:
                metadata = _Description(file).load()
            except (pickle.UnpicklingError, EOFError, AttributeError) as error:
                raise ValueError(f"The description of the shards in {self.path} is damaged: {error}") from error
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Description(pickle.Unpickler):
    ALLOWED = {
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("pathlib", "PosixPath"),
        ("pathlib", "WindowsPath"),
        ("pathlib", "Path"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        *(("torch.distributed.checkpoint.metadata", name) for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise ValueError(f"The description of the shards names {module}.{name}, which no checkpoint needs: refused.")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = consolidate_parser().parse_args(argv)
    try:
        consolidate(arguments.checkpoint, arguments.out)
    except ValueError as error:
        return end(EXIT_REFUSED, error)
    print(f"Wrote the encoder to {arguments.out} and the whole model to {arguments.out / WHOLE}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
