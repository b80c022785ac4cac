"""data2vec 1 and 2.0 in speech, vision and language: pretrain, fine-tune, convert, publish.

``import data2vec`` adds our classes to the ``transformers`` Auto classes and does nothing else. `data2vec.pretrain`,
`finetune`, `probe` and `embed` are imported when they are used.
"""

from importlib import import_module
from typing import Any

# Absolute on purpose: pytest also imports this file under the checkout folder's name, where `from . import modeling`
# would make a second copy of every class.
from data2vec import modeling as modeling


__version__ = "0.1.0"

# name -> its module; `data2vec.finetune` is a package that can be called
_LAZY = {"pretrain": "pretraining.python_api", "probe": "finetune.python_api", "embed": "finetune.embed"}


def __getattr__(name: str) -> Any:
    """What `data2vec` offers besides classes, imported when it is first used."""
    if name == "finetune":
        return import_module("data2vec.finetune")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"data2vec.{_LAZY[name]}"), name)
