"""Nothing that a stranger wrote is run, and no token is written down."""

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from data2vec.pretraining.checkpoints.run_folder import write_run_files
from data2vec.pretraining.console.help import EXIT_REFUSED, end
from data2vec.pretraining.console.redact import mask_command, mask_secrets, mask_text
from data2vec.pretraining.monitoring.health import Health
from tests.warm import commands_for


ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling", "pretraining", "finetune", "model_cards")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

# file -> what it may use, and why
ALLOWED = {
    "modeling/convert/pickles.py": {"pickle"},  # an unpickler that makes stand-ins and refuses any other name
    "pretraining/consolidate.py": {"pickle"},  # an unpickler that makes descriptions of tensors and nothing else
    "pretraining/data/builtin.py": {"subprocess"},  # the package's own script, a list of words, no shell
    "pretraining/checkpoints/environment.py": {"subprocess"},  # git, of its own checkout, a list of words, no shell
    "model_cards/space/command.py": {"subprocess"},  # the app that it has just written, a list of words, no shell
    "pretraining/engine/allocator.py": {"ctypes"},  # one setting of the C library that the process has loaded already
    "pretraining/data/synthesize_digits.py": {"ctypes"},  # espeak-ng's library, from its package
}
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "subprocess", "ctypes", "runpy", "code"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
AUTO = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor", "AutoFeatureExtractor", "AutoImageProcessor")


def findings(tree: ast.AST) -> set[str]:
    """What a module uses that could run somebody else's code."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {(node.module or "").split(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            found |= called(node)
    return found


def called(call: ast.Call) -> set[str]:
    name = ast.unparse(call.func)
    how = {word.arg: ast.unparse(word.value) for word in call.keywords}
    found = set()
    if name in BUILTINS or name.startswith(("os.system", "os.popen", "os.exec", "os.spawn")):
        found.add(name)
    if how.get("shell", "False") != "False":
        found.add("shell=True")
    if name in ("torch.load", "load") and how.get("weights_only") != "True" and name.startswith("torch"):
        found.add("torch.load without weights_only=True")
    if name in ("np.load", "numpy.load") and how.get("allow_pickle", "False") != "False":
        found.add("allow_pickle")
    if name in ("yaml.load", "yaml.load_all") and not any(
        word in ast.unparse(call) for word in ("SafeLoader", "CSafeLoader", "_Loader")
    ):
        found.add("yaml.load without a safe loader")
    if name in ("yaml.unsafe_load", "yaml.full_load"):
        found.add(name)
    if how.get("trust_remote_code", "False") != "False":
        found.add("trust_remote_code")
    if name.endswith(".from_pretrained") and name.startswith(AUTO):
        if "trust_remote_code" not in how and None not in how:
            found.add(f"{name} without trust_remote_code=False")  # `None` asks on the terminal
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_uses_nothing_that_runs_what_it_reads(path):
    name = str(path.relative_to(ROOT))
    assert findings(ast.parse(path.read_text(encoding="utf-8"))) == ALLOWED.get(name, set())


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "eval('1')", "exec(x)", "torch.load(f)",
        "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "yaml.load(t, yaml.Loader)",
        "os.system('ls')", "run(['x'], shell=True)", "AutoModel.from_pretrained(x)",
        "AutoTokenizer.from_pretrained(x, trust_remote_code=True)", "m.from_pretrained(x, trust_remote_code=flag)",
    ],
)  # fmt: skip
def test_the_scan_finds_it(code):
    assert findings(ast.parse(code))


# ---- pickles ----


class Attack:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run folder with a complete checkpoint of four steps."""
    from data2vec.tests.pretraining.test_trainer import make_trainer

    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, max_steps=4, save_steps=4).train()
    return folder / "checkpoint-4"


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"]
)
def test_nothing_in_a_checkpoint_is_run_when_a_run_is_continued(checkpoint, tmp_path, name):
    import shutil

    from data2vec.tests.pretraining.test_trainer import make_trainer

    poisoned, mark = tmp_path / "checkpoint-4", tmp_path / "mark"
    shutil.copytree(checkpoint, poisoned)
    torch.save(Attack(mark), poisoned / name)
    if name == "pytorch_model.bin":
        (poisoned / "model.safetensors").unlink()
    trainer = make_trainer(tmp_path / "again", max_steps=5)
    if name != "training_args.bin":  # which nothing reads
        with pytest.raises(Exception, match="weights_only|Weights only|weights only"):
            trainer.train(resume_from_checkpoint=str(poisoned))
    else:
        trainer.train(resume_from_checkpoint=str(poisoned))
    assert not mark.exists()
    torch.load(poisoned / name, weights_only=False)
    assert mark.exists()  # the attack would have worked


def test_the_saved_arguments_hold_no_token(tmp_path):
    from data2vec.pretraining.trainer import PretrainingArguments

    args = PretrainingArguments(
        output_dir=str(tmp_path),
        hub_token="hf_abcdefghijklmnop1234",
        run_name="with hf_qrstuvwxyzabcdef1234",
        report_to="none",
    )
    torch.save(args, tmp_path / "training_args.bin")
    saved = (tmp_path / "training_args.bin").read_bytes()
    assert b"abcdefghijklmnop" not in saved and b"qrstuvwxyz" not in saved
    assert "qrstuvwxyz" not in args.to_json_string()
    assert "abcdefghijklmnop" not in repr(args) + str(args) + args.to_json_string() + json.dumps(
        args.to_dict(), default=str
    )
    assert args.hub_token == "hf_abcdefghijklmnop1234"
    assert pickle.loads(pickle.dumps(args)).learning_rate == args.learning_rate


# ---- tokens ----


def test_a_token_reaches_neither_recipe_nor_command(tmp_path, monkeypatch):
    secret = "XYZ-much-secret"
    recipe = {
        "model": {"model_type": "data2vec-text", "mask_token_id": 4},
        "data": {"sources": [{"path": f"https://me:{secret}@host/x"}], "tokenizer": "hf_abcdefghijklmnop1234"},
        "training": {"output_dir": "x", "hub_token": secret, "push_to_hub_token": None, "batch_tokens": 5},
    }
    argv = ["run.py", "r.yaml", "--hub_token", secret, "--training.hub-token=" + secret, "--seed", "3"]
    argv += ["--x", "hf_abcdefghijklmnop1234"]
    monkeypatch.setattr(sys, "argv", argv)
    write_run_files(tmp_path, recipe)
    written = (tmp_path / "recipe.yaml").read_text() + (tmp_path / "run.json").read_text()
    assert secret not in written and "hf_abcdef" not in written
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["training"] == {
        "output_dir": "x", "hub_token": "***", "push_to_hub_token": None, "batch_tokens": 5,
    }  # fmt: skip
    assert json.loads((tmp_path / "run.json").read_text())["command"] == (
        "run.py r.yaml --hub_token '***' '--training.hub-token=***' --seed 3 --x '***'"
    )
    plain = {"mask_token": "<mask>", "pad_token": "<pad>", "token": None, "max_tokens": 7, "path": "/data/x@y"}
    assert mask_secrets(plain) == plain and mask_command(["a", "--mask_token", "<m>"]) == "a --mask_token '<m>'"


@pytest.mark.parametrize(
    "text",
    [
        "mask_token: <mask>, pad_token=[PAD]", "https://host:8080/x@y and me@host", "git@github.com:me/x.git",
        "HF_TOKEN=$TOKEN or HF_TOKEN=<yours>", "ssh://git@github.com/x", "task-based sk-learn", "bearer of news",
        "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "runs/my_secret=1", "tokens=1234",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert mask_text(text) == text


def test_a_password_in_a_url_reaches_neither_error_nor_health(tmp_path, capsys):
    url = "https://me:very@secret@host/x"
    health = Health(tmp_path, dict)
    health.active = True
    health.finish("failed", f"OSError: cannot open {url}")
    assert end(EXIT_REFUSED, ValueError(f"cannot open {url}")) == 2
    said = capsys.readouterr().err + (tmp_path / "health.json").read_text()
    assert "cannot open https://***@host/x" in said and "secret" not in said


def test_a_token_in_a_command_that_cannot_be_read_is_not_repeated():
    from data2vec.pretraining.arguments import parse_arguments

    with pytest.raises(ValueError, match=r"\*\*\*") as error:
        parse_arguments(["demo_vision.yaml", "--hub_token", "XYZ-much-secret", "stray"])
    assert "XYZ" not in str(error.value)


# ---- remote code ----


@pytest.fixture
def trap(tmp_path):
    """A model folder whose code leaves a mark when it is run; under a new model type and under one of ours."""
    for name, model_type in (("foreign", "trojan"), ("known", "data2vec-vision")):
        folder = tmp_path / name
        folder.mkdir()
        auto = {
            "AutoConfig": "trap.C",
            "AutoModel": "trap.M",
            "AutoModelForPreTraining": "trap.M",
            "AutoTokenizer": ["trap.M", None],
        }
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, "auto_map": auto}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["trap.M", None]}}))
        (folder / "trap.py").write_text(
            f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\nclass C: pass\nclass M: pass\n"
        )
    return tmp_path


RUN = "from data2vec.pretraining.run import main; main([{recipe!r}, '--output_dir', {out!r}, {field!r}, {folder!r}])"
BACK = "from data2vec.modeling.convert_fairseq import main; main(['--to-fairseq', {folder!r}, {out!r}])"


@pytest.mark.parametrize("name", ["foreign", "known"])
@pytest.mark.parametrize(
    ("command", "recipe", "field"),
    [(RUN, "demo_vision.yaml", "--model_name_or_path"), (RUN, "demo_text.yaml", "--tokenizer"), (BACK, "", "")],
    ids=["model", "tokenizer", "convert"],
)
def test_code_in_a_model_folder_is_not_run(trap, name, command, recipe, field):
    how = {"folder": str(trap / name), "out": str(trap / "out"), "recipe": recipe, "field": field}
    code = "import sys; sys.argv = ['x']\n" + command.format(**how)
    environment = os.environ | {"PYTHONPATH": "", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [str(commands_for(environment) / "python"), "-c", code], capture_output=True, text=True, timeout=240,
        stdin=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert not (trap / "mark").exists(), done.stderr[-2000:]
    assert "Do you wish to run the custom code" not in done.stdout + done.stderr
