"""Models, configurations and the objective, imported when they are first used.

Importing this package costs next to nothing. Our classes join the Auto classes of `transformers` when those are
imported, which takes seconds: configurations behind `AutoConfig`, models behind `AutoModel` and its like.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar


if TYPE_CHECKING:
    from .auto import *  # noqa: F403

# module of `transformers` -> ours that registers classes there
REGISTERED_BY = {
    "transformers.models.auto.configuration_auto": f"{__name__}.auto_configuration",
    "transformers.models.auto.feature_extraction_auto": f"{__name__}.auto_feature_extraction",
    "transformers.models.auto.modeling_auto": f"{__name__}.auto",
}
# What is half imported when it imports those, and needed by ours: they wait until it is there.
AROUND = ("transformers.modeling_layers", f"{__name__}.")


class _ThenRegister(Loader):
    """Imports a module as `loader` does, and then, when the outermost of such imports has ended, ours."""

    depth = 0
    waiting: ClassVar[list[str]] = []

    def __init__(self, loader: Loader, ours: str | None):
        self.loader, self.ours = loader, ours

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        _ThenRegister.depth += 1
        try:
            self.loader.exec_module(module)
        finally:
            _ThenRegister.depth -= 1
        if self.ours is not None:
            self.waiting.append(self.ours)
        while self.waiting and not _ThenRegister.depth:
            import_module(self.waiting.pop(0))

    def __getattr__(self, name: str) -> Any:  # get_source and the like
        return getattr(self.loader, name)


class _AutoClasses(MetaPathFinder):
    """Notices that the Auto classes are imported. What is imported otherwise it leaves to others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REGISTERED_BY and not fullname.startswith(AROUND):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _ThenRegister(spec.loader, REGISTERED_BY.get(fullname))
        return spec


def __getattr__(name: str) -> Any:
    """A public class, or `__all__`."""
    if name == "__all__" or not name.startswith("__"):
        auto = import_module(f"{__name__}.auto")
        if name in ("__all__", *auto.__all__):
            return getattr(auto, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]


sys.meta_path.insert(0, _AutoClasses())
for theirs, ours in REGISTERED_BY.items():
    if theirs in sys.modules:  # imported before us
        import_module(ours)
