"""The fields of argument classes, read from their source: what `--help` lists, without importing torch.

Importing the classes takes seconds; `--help` and the message about a misspelt field come at once.
"""

import ast
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
# classes of transformers that ours extend -> the modules that define them
ELSEWHERE = {
    "TrainingArguments": "transformers.training_args",
    "PreTrainedConfig": "transformers.configuration_utils",
    **{
        f"Data2Vec{name.title()}Config": f"transformers.models.data2vec.configuration_data2vec_{name}"
        for name in ("audio", "text", "vision")
    },
}


def fields_of(module: str, name: str, *, inherited: bool = True) -> list[str]:
    """Names of a dataclass's fields, in their order, with those of its bases in front.

    Args:
        module: as it is imported, `data2vec.pretraining.trainer`.
        inherited: False leaves out the fields of classes outside this package.

    Raises:
        LookupError: the module does not define the class.
    """
    classes, homes = _read(module)
    if name not in classes:
        raise LookupError(f"{module} defines no class {name}")
    names: list[str] = []
    for base in classes[name].bases:
        called = ast.unparse(base).split("[")[0]
        if called in classes:
            names += fields_of(module, called, inherited=inherited)
        elif called in ELSEWHERE:
            names += fields_of(ELSEWHERE[called], called) if inherited else []
        elif homes.get(called, "").startswith("data2vec."):
            names += fields_of(homes[called], called, inherited=inherited)
    return list(dict.fromkeys([*names, *_own(classes[name])]))


@cache
def _read(module: str) -> tuple[dict[str, ast.ClassDef], dict[str, str]]:
    """The classes that a module defines, and where the names that it imports are from."""
    body = ast.parse(_file(module).read_text(encoding="utf-8")).body
    homes = {
        alias.asname or alias.name: resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return {node.name: node for node in body if isinstance(node, ast.ClassDef)}, homes


def _file(module: str) -> Path:
    package, *parts = module.split(".")
    if package == "data2vec":
        return ROOT.joinpath(*parts).with_suffix(".py")
    spec = find_spec(package)  # does not import it
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent.joinpath(*parts).with_suffix(".py")


def _own(found: ast.ClassDef) -> list[str]:
    return [
        node.target.id
        for node in found.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not ast.unparse(node.annotation).startswith("ClassVar")
        and "init=False" not in ast.unparse(node)
    ]
