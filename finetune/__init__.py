"""Fine-tuning and evaluation of a pretrained encoder. The package is a function, too: `data2vec.finetune(...)`."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """`import data2vec.finetune.x` puts this package where the function of that name would be."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See [`python_api.finetune`]."""
        from .python_api import finetune

        return finetune(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
