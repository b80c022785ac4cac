"""What the project is as an installed package: its folders, imports, commands and wheel."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement


ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
LAYERS = ["modeling", "pretraining", "finetune", "model_cards"]  # each may import those before it
TOP = ["cli", "__main__"]  # files of the root above all layers, each may import those before it
# Rooms of a layer, each may import those before it; docs/architecture.md draws them. "" is the layer's own files.
ROOMS = {
    "modeling": ["", "convert"],
    "pretraining": ["console", "engine", "data", "modalities", "checkpoints", "monitoring", "evaluation", "", "sweep"],
    "finetune": ["", "probe", "audio", "ctc", "image", "points", "text", "video"],
    "model_cards": ["", "report", "show", "card", "export", "hub", "space"],
}
# Files of a layer that stand apart from their room's floor: read by its rooms, or commands on top of them.
BELOW = {"pretraining/recipe.py", "pretraining/shared_arguments.py"}
ABOVE = {
    "modeling": {"convert_fairseq"},
    "finetune": {
        "embed",
        "python_api",
        "run_audio_classification",
        "run_ctc",
        "run_glue",
        "run_image_classification",
        "run_part_segmentation",
        "run_point_cloud_classification",
        "run_probe",
        "run_video_classification",
        "train_ngram",
    },
    "model_cards": {"push", "render"},
}
OUTSIDE = {"tests", "docs", "benchmarks", "runs", "build", "dist"}  # no part of the package


def package_folders() -> dict[str, Path]:
    """Every folder with an ``__init__.py``, by the name it should be importable as."""
    folders = [ROOT]
    for top in sorted(ROOT.iterdir()):
        if top.is_dir() and top.name not in OUTSIDE and not top.name.startswith("."):
            folders += [init.parent for init in sorted(top.rglob("__init__.py"))]
    return {".".join(["data2vec", *folder.relative_to(ROOT).parts]): folder for folder in folders}


def sources(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at the top or inside a function; relative ones resolved."""
    package = ".".join(["data2vec", *path.parent.relative_to(ROOT).parts])
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # `from data2vec import finetune` imports data2vec.finetune
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "data2vec" else {module}
    return names


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process that, unlike ``python -c``, does not look into the working folder."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)


# The folders


def test_listed_packages_are_the_folders() -> None:
    folders = package_folders()
    assert set(SETUPTOOLS["packages"]) == set(folders)
    mapped = {name: (ROOT / folder).resolve() for name, folder in SETUPTOOLS["package-dir"].items()}
    assert mapped == {name: folder.resolve() for name, folder in folders.items()}


def test_the_working_tree_is_what_tests_import() -> None:
    import data2vec.modeling

    assert Path(data2vec.modeling.__file__).parent == ROOT / "modeling"
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    ours = {name for name, file in files.items() if file and Path(file).is_relative_to(ROOT / "modeling")}
    assert {name for name in ours if not name.startswith("data2vec.modeling")} == set(), "two copies of the classes"


def test_file_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    files = [path for layer in [*LAYERS, "model_cards", "tests"] for path in sources(layer)] + list(ROOT.glob("*.py"))
    assert [str(path) for path in files if path.stem in vague] == []


# Imports


def test_imports_go_one_way() -> None:
    for rank, layer in enumerate(LAYERS):
        allowed = {f"data2vec.{name}" for name in LAYERS[: rank + 1]}
        above = {f"data2vec.{name}" for name in [*LAYERS[rank + 1 :], *TOP]}
        for path in sources(layer):
            names = imports(path)
            used = {".".join(name.split(".")[:2]) for name in names if name.split(".")[0] == "data2vec"}
            assert not used & above, f"{path}: {layer} imports {used & above}, only {allowed} lie below it"
            bare = {name for name in names if name.split(".")[0] in LAYERS}
            assert not bare, f"{path}: write data2vec.{min(bare)}, the folder itself is no package"


def test_files_of_the_root_lie_above_all_layers() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", *TOP}
    for rank, name in enumerate(TOP):
        assert not imports(ROOT / f"{name}.py") & {f"data2vec.{above}" for above in TOP[rank:]}


def room_of(layer: str, module: str) -> str:
    """The room of a module `data2vec.layer...`."""
    parts = module.split(".")[2:]
    return parts[0] if parts and parts[0] in ROOMS[layer] else ""


@pytest.mark.parametrize("layer", LAYERS)
def test_rooms_import_only_the_rooms_below(layer: str) -> None:
    folders = {path.parent.name for path in (ROOT / layer).glob("*/__init__.py")}
    assert folders == set(ROOMS[layer]) - {""}, "a room is missing in ROOMS, or is gone"
    for path in sources(layer):
        relative = path.relative_to(ROOT)
        room = relative.parts[1] if len(relative.parts) > 2 else ""
        if not room and path.stem in ABOVE.get(layer, ()):
            continue
        for name in imports(path):
            if not name.startswith(f"data2vec.{layer}."):
                continue
            file = "/".join(name.split(".")[1:]) + ".py"
            used = room_of(layer, name)
            allowed = ROOMS[layer].index(used) <= ROOMS[layer].index(room)
            assert allowed or file in BELOW, f"{relative} imports {name}: {used or layer} is not below {room or layer}"


def test_modeling_can_be_remote_code() -> None:
    """transformers copies only flat files that are imported as ``from .file import name``."""
    libraries = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
    at_home = {ROOT / "modeling" / "convert_fairseq.py"}  # a command
    for path in sorted(set((ROOT / "modeling").glob("*.py")) - at_home):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{path}:{node.lineno}: reaches out of modeling/"
                assert node.module, f"{path}:{node.lineno}: `from . import x` is not copied: name the file"
                assert "." not in node.module, f"{path}:{node.lineno}: sub-packages are not copied"
        foreign = {name for name in imports(path) if not name.startswith("data2vec.modeling.")}
        foreign = {name for name in foreign if name.split(".")[0] not in libraries}
        assert not foreign, f"{path}: modeling needs {foreign}, allowed are torch, transformers and huggingface_hub"


@pytest.mark.parametrize("folder", ["pretraining", "finetune"])
def test_no_script_folder_hides_a_library(folder: str) -> None:
    """``python pretraining/run.py`` puts pretraining/ first on sys.path: a datasets.py there would be `datasets`."""
    libraries = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
    names |= {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert not names & libraries


# import data2vec


IMPORT = """
import json, logging, os, random, socket, sys, threading, warnings

def refuse(*args, **kwargs):
    raise AssertionError("import data2vec opened a connection")

socket.socket.connect = socket.getaddrinfo = refuse
import torch, transformers
from transformers import AutoModel, AutoModelForPreTraining  # what libraries do is theirs
from transformers import Data2VecAudioModel, Data2VecTextModel, Data2VecVisionModel

state, filters, loaded = torch.get_rng_state(), list(warnings.filters), set(sys.modules)
import data2vec

loaded = sorted(set(sys.modules) - loaded)
assert torch.equal(state, torch.get_rng_state()), "moved the random state"
assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
assert warnings.filters == filters, "changed the warning filters"
assert not logging.getLogger().handlers, "configured logging"
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING, MODEL_MAPPING
answer = {"loaded": loaded, "pretraining": {}, "base": {}}
for name in ("Data2VecAudioConfig", "Data2VecTextConfig", "Data2VecVisionConfig"):
    config = getattr(transformers, name)
    answer["pretraining"][name] = MODEL_FOR_PRETRAINING_MAPPING[config].__module__
    answer["base"][name] = MODEL_MAPPING[config].__module__
from data2vec.modeling import Data2Vec2AudioConfig
answer["pretraining"]["ours"] = AutoModelForPreTraining._model_mapping[Data2Vec2AudioConfig].__module__
print(json.dumps(answer))
"""


def test_import_registers_and_does_nothing_else() -> None:
    result = run_python(IMPORT, HF_HUB_OFFLINE="0", HF_DATASETS_OFFLINE="0")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    for module in answer["pretraining"].values():
        assert module.startswith("data2vec.modeling.")
    for module in answer["base"].values():  # public checkpoints still open as what they are
        assert module.startswith("transformers.")
    assert not [
        name for name in answer["loaded"] if not re.match(r"data2vec($|\.modeling)|torch\.|transformers\.", name)
    ]


ORDERS = """
import os, sys
import data2vec
early = {"torch", "transformers", "datasets"} & set(sys.modules)
assert not early, f"import data2vec imports {early}"
import accelerate, sklearn.metrics, torch._dynamo, torch.distributed.tensor  # what transformers imports, once for all
assert "transformers" not in sys.modules
for code in sys.argv[1:]:
    child = os.fork()
    if not child:
        exec(code)
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {code}")
"""
CLASSES = """
from transformers import AutoModelForPreTraining, Data2VecTextConfig
from data2vec.modeling import Data2Vec2AudioConfig
classes = [AutoModelForPreTraining._model_mapping[config] for config in (Data2Vec2AudioConfig, Data2VecTextConfig)]
assert [c.__name__ for c in classes] == ["Data2Vec2AudioForPreTraining", "Data2VecTextForPreTraining"], classes
"""
LAZY = """
from transformers import AutoConfig
config = AutoConfig.for_model("data2vec2-audio")
assert config.model_type == "data2vec2-audio"
assert "data2vec.modeling.heads" not in sys.modules
from transformers import AutoModelForCTC
assert AutoModelForCTC._model_mapping[type(config)].__name__ == "Data2Vec2AudioForCTC"
"""


def test_import_is_cheap_and_classes_come_when_they_are_used_whatever_is_imported_next() -> None:
    """Each of these after nothing but `import data2vec`; what was imported before it, the test above has."""
    half_way = "from transformers import ViTModel"  # which imports the Auto classes half way
    orders = [LAZY, half_way + CLASSES, "import data2vec.modeling.modeling_data2vec2" + CLASSES]
    result = run_python(ORDERS, *orders)
    assert result.returncode == 0, result.stderr


def test_version_is_the_same_everywhere() -> None:
    import data2vec

    assert importlib.metadata.version("data2vec") == data2vec.__version__


@pytest.mark.parametrize("command", sorted(PYPROJECT["project"]["scripts"]))
def test_console_command_answers(command: str) -> None:
    entry = importlib.metadata.EntryPoint(command, PYPROJECT["project"]["scripts"][command], "console_scripts")
    assert callable(entry.load())


# The commands of the README


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What make would run, without running it."""
    env = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES"}}
    env = {key: value for key, value in env.items() if key not in {"ARGS", "MODALITY"}}
    return subprocess.run(["make", "-n", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_commands_of_the_page_are_targets(page: str) -> None:
    """Every ``make target`` in the page's code, inline or in a block."""
    text = (ROOT / page).read_text()
    code = "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    code += "\n" + "\n".join(re.findall(r"`([^`\n]+)`", text))
    commands = re.findall(r"^\s*\$?\s*make((?: [a-z][a-z-]*)+)", code, re.MULTILINE)
    targets = {target for command in commands for target in command.split()}
    assert {"demo", "test"} <= targets or page != "README.md"
    assert targets
    for target in sorted(targets):
        result = make(target)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("modality", ["print", "vision", "text", "audio", "points", "joint", "stages"])
def test_demo_launches_its_recipe(modality: str) -> None:
    recipe = f"pretraining/recipes/demo_{modality}.yaml"
    default = [] if modality == "print" else [f"MODALITY={modality}"]
    result = make("demo", *default, "ARGS=--max_steps 3")
    assert re.search(rf"accelerate launch .*pretraining/run.py {recipe} --max_steps 3$", result.stdout, re.MULTILINE)
    assert (ROOT / recipe).is_file()


def test_unknown_modality_is_refused_with_the_fix() -> None:
    result = make("demo", "MODALITY=smell")
    assert result.returncode != 0
    assert "MODALITY=smell" in result.stderr and "vision text audio points" in result.stderr


# gradio 6 says pillow<13, and everything else is tested with 13: `pip install data2vec[space]` takes an older one.
# What benchmarks/rivals.py compares with brings torchvision along; the extra itself names exact versions.
UNPINNED = {"data2vec", "gradio", "lightly", "stable-pretraining"}


def test_constraints_pin_every_dependency_inside_its_range() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {pin.name.lower().replace("_", "-"): pin.specifier for pin in map(Requirement, lines)}
    assert all(len(pin) == 1 and next(iter(pin)).operator == "==" for pin in pins.values())
    extras = PYPROJECT["project"]["optional-dependencies"]
    tested = [line for wanted in extras.values() for line in wanted]
    for wanted in map(Requirement, PYPROJECT["project"]["dependencies"] + tested):
        if wanted.name not in UNPINNED:
            (pin,) = pins[wanted.name.lower().replace("_", "-")]
            assert wanted.specifier.contains(pin.version), f"{wanted} is tested with {pin.version}"


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree, built from a copy: setuptools leaves its build folder beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    keep = {"pyproject.toml", "README.md", "LICENSE", "__init__.py", "py.typed", *LAYERS, "tests"} | {
        f"{name}.py" for name in TOP
    }
    shutil.copytree(ROOT, copy, ignore=lambda at, names: set(names) - keep if Path(at) == ROOT else {"__pycache__"})
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*pip, "--wheel-dir", folder, copy], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    expected = {"data2vec/__init__.py", "data2vec/py.typed", *(f"data2vec/{name}.py" for name in TOP)}
    for name, folder in package_folders().items():
        if name != "data2vec":
            files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
            expected |= {f"data2vec/{path.relative_to(ROOT).as_posix()}" for path in files}
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == expected


def test_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import data2vec, data2vec.pretraining, data2vec.finetune; print(data2vec.modeling.__file__)"
    result = run_python(code, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "data2vec" / "modeling" / "__init__.py")
    (about,) = tmp_path.glob("*.dist-info/METADATA")
    assert "License-Expression: Apache-2.0" in about.read_text()
    assert "Apache License" in (about.parent / "licenses" / "LICENSE").read_text()
