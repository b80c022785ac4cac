"""What a person meets who asks for help, or slips: `--help` of every command, exit codes, and errors with the fix."""

import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Callable

import pytest

from data2vec.cli import COMMANDS, Command, main
from data2vec.finetune.command_line import script_of
from data2vec.finetune.help_text import COMMANDS as SCRIPT_WORDS
from data2vec.finetune.help_text import RECIPES as FINE_TUNING_RECIPES
from data2vec.finetune.help_text import recipes_of
from data2vec.pretraining.command_line import RECIPES
from data2vec.pretraining.console.help import EXIT_CODES, FINE_TUNING, ORDINARY
from data2vec.pretraining.console.progress import progress
from tests.code_blocks import ROOT, blocks_of
from tests.finetune.encoders import encoder_folder


SCRIPTS = {f"data2vec.finetune.{name.removesuffix('.py')}": name for name in SCRIPT_WORDS}
TRAIN = {"pretrain": tuple(EXIT_CODES), "finetune": FINE_TUNING, "sweep": FINE_TUNING, "suggest": FINE_TUNING}
# command, or module -> the exit codes that it documents
CODES = {
    **{f"data2vec {name}": TRAIN.get(name, ORDINARY) for name in COMMANDS},
    "data2vec.pretraining.run": tuple(EXIT_CODES),
    **{module: ORDINARY if name == "run_probe.py" else FINE_TUNING for module, name in SCRIPTS.items()},
    "data2vec.pretraining.consolidate": ORDINARY,
    "data2vec.finetune.train_ngram": ORDINARY,
    "data2vec.modeling.convert": ORDINARY,
}


def main_of(command: str) -> Callable[[list[str]], int]:
    """What `data2vec NAME` or `python -m MODULE` calls: a package's is that of its `__main__`."""
    if " " in command:
        return lambda words: main([command.split()[1], *words])
    package = importlib.util.find_spec(command).submodule_search_locations is not None
    return importlib.import_module(f"{command}.__main__" if package else command).main


def test_every_command_is_on_the_page():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    launched = {*SCRIPTS, "data2vec.pretraining.run"}
    for command in CODES:
        path = f"accelerate launch {command.removeprefix('data2vec.').replace('.', '/')}.py "
        shown = path if command in launched else command if " " in command else f"python -m {command}"
        assert f"`{shown}" in page
    assert all(
        f"`{words.name}`" in page or f"task.name: {words.name}`" in page or words.name == "probe"
        for words in SCRIPT_WORDS.values()
    )


def test_finetune_finds_the_task_in_the_recipe(tmp_path):
    for script, words in SCRIPT_WORDS.items():
        for recipe in recipes_of(script):
            assert script_of([recipe]) == script
        mine = tmp_path / "mine.yaml"
        mine.write_text("model: {model_name_or_path: x}\n")
        assert script_of([str(mine), "--max_steps", "1", "--task.name", words.name]) == script
        assert script_of([str(mine), f"--task.name={words.name}"]) == script
    with pytest.raises(ValueError, match=r"task.name = None: the recipe must say its task, one of image-classifi"):
        script_of([str(mine)])


def test_a_recipe_of_another_task_is_refused(tmp_path, capsys):
    words = ["esc10_small.yaml", "--model_name_or_path", str(encoder_folder(tmp_path, "vision", "v1"))]
    assert main_of("data2vec.finetune.run_image_classification")(words) == 2
    assert "task.name = 'audio-classification': run_image_classification.py is for" in capsys.readouterr().err


def test_arguments_are_handed_over_unread(monkeypatch):
    """In their order, with short options, negative numbers and what Typer would take for its own."""
    words = ["run", "-o", "page", "--layer", "-1", "--data.train={path: a b}", "--show-completion", "", "-12"]
    seen = []
    module = types.SimpleNamespace(main=lambda words: seen.append(words) or 5)
    monkeypatch.setitem(sys.modules, "data2vec.none_such", module)
    monkeypatch.setitem(COMMANDS, "report", Command("", seen.append, "none_such"))
    assert main(["report", *words]) == 5 and seen == [words, words]


def test_completion_offers_recipes():
    assert COMMANDS["pretrain"].complete("demo_v") == ["demo_vision.yaml", "demo_vision_v2.yaml"]
    assert COMMANDS["card"].complete("demo_v") == COMMANDS["pretrain"].complete("") == []


def help_of(module: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as done:
        main_of(module)(["--help"])
    assert done.value.code == 0
    return capsys.readouterr().out


def section(text: str, title: str) -> list[str]:
    """The indented lines below `title:`."""
    found = re.search(rf"^{re.escape(title)}:\n((?:  .*\n?)+)", text, re.MULTILINE)
    assert found, f"no section {title!r} in\n{text}"
    return [line[2:] for line in found[1].splitlines()]


@pytest.mark.parametrize("module", CODES)
def test_help_has_an_example_exit_codes_and_the_page(module, capsys):
    text = help_of(module, capsys)
    assert max(map(len, text.splitlines())) <= 110, "wider than a terminal"
    assert re.match(r"(data2vec |python -m)", section(text, "example")[0])
    codes = [int(line.split()[0]) for line in section(text, "exit codes")]
    assert codes == sorted(CODES[module])
    page = re.match(r"docs/[\w/]+\.md", section(text, "documentation")[0])
    assert page and (ROOT / page[0]).is_file()


def test_help_lists_the_recipes_of_the_command_alone(capsys):
    listed = {}
    for module, script in SCRIPTS.items():
        text = " ".join(section(help_of(module, capsys), "recipes that come with the package"))
        listed[script] = set(text.split(", "))
        assert listed[script] == set(recipes_of(script)) and listed[script]
    every = [name for names in listed.values() for name in names]
    assert sorted(every) == sorted(path.name for path in FINE_TUNING_RECIPES.glob("*.yaml")), "each belongs to one"
    text = help_of("data2vec.pretraining.run", capsys)
    names = " ".join(section(text, "recipes that come with the package")).split(", ")
    assert set(names) == {path.name for path in RECIPES.glob("*.yaml")}


def test_help_names_every_field(capsys):
    from data2vec.modeling import ObjectiveConfig
    from data2vec.pretraining.modalities.build import AudioDataArguments, ImageDataArguments, TextDataArguments

    words = set(re.findall(r"\w+", help_of("data2vec.pretraining.run", capsys)))
    for cls in (ObjectiveConfig, AudioDataArguments, ImageDataArguments, TextDataArguments):
        assert set(cls.__dataclass_fields__) <= words


def test_the_page_of_exit_codes_has_them_all():
    page = (ROOT / "docs" / "resilience.md").read_text(encoding="utf-8")
    table = page.split("## Exit codes")[1].split("## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d) \|", table, re.MULTILINE)} == set(EXIT_CODES)


@pytest.mark.parametrize(
    ("module", "slip", "meant"),
    [
        ("data2vec.pretraining.run", "demo_visoin.yaml", "demo_vision.yaml"),
        ("data2vec.pretraining.run", "audio_bse_v2", "audio_base_v2.yaml"),
        ("data2vec.finetune.run_ctc", "librispech_10h.yaml", "librispeech_10h.yaml"),
        ("data2vec.finetune.run_glue", "glue-base.yaml", "glue_base.yaml"),
    ],
)
def test_a_misspelt_recipe_is_told_the_nearest(module, slip, meant, capsys):
    assert main_of(module)([slip]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: There is no recipe {slip!r}. Did you mean {meant}")


def test_a_recipe_like_no_other_lists_them(capsys):
    assert importlib.import_module("data2vec.pretraining.run").main(["zzz.yaml"]) == 2
    message = capsys.readouterr().err
    assert all(path.name in message for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("module", ["data2vec tokenizer", "data2vec.finetune.train_ngram"])
def test_small_commands_refuse_without_a_traceback(module, tmp_path, capsys):
    extra = ["--vocab_size", "300"] if "tokenizer" in module else []
    code = main_of(module)([str(tmp_path / "out"), "--data", str(tmp_path / "none.txt"), *extra])
    message = capsys.readouterr().err
    assert code == 2 and message.startswith("error: ") and "none.txt" in message and "correct the path" in message
    assert not (tmp_path / "out").exists()


def test_a_missing_argument_is_refused_with_the_usage(capsys):
    with pytest.raises(SystemExit) as done:
        importlib.import_module("data2vec.pretraining.run").main([])
    message = capsys.readouterr().err
    assert done.value.code == 2 and "usage: data2vec pretrain RECIPE.yaml" in message


def test_bars_are_for_terminals(monkeypatch, capsys):
    monkeypatch.setattr("data2vec.pretraining.console.progress.PATIENCE", 0)
    assert list(progress(range(3), title="reading", unit=" rows")) == [0, 1, 2]
    assert capsys.readouterr().err == "", "a log file holds no bars"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress(range(3), title="reading", unit=" rows")) == [0, 1, 2]
    assert "reading" in capsys.readouterr().err
    monkeypatch.setattr("data2vec.pretraining.console.progress.PATIENCE", 60)
    assert list(progress(range(3), title="reading", unit=" rows")) == [0, 1, 2]
    assert "reading" not in capsys.readouterr().err, "what is over at once needs no bar"


@pytest.mark.parametrize("script", SCRIPT_WORDS)
def test_the_example_is_that_of_the_page(script):
    """A test runs the page's commands: recipe and fields of the example are among theirs."""
    blocks = [code for language, code in blocks_of(ROOT / SCRIPT_WORDS[script].page) if language == "bash"]
    example = SCRIPT_WORDS[script].example
    on_page = " ".join(code for code in blocks if example.split()[0] in code)
    assert set(re.findall(r"--[\w.]+|\w+\.yaml", example)) <= set(re.findall(r"--[\w.]+|\w+\.yaml", on_page))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rate", "fast"], "training.learning_rate = 'fast' is invalid: give a number"),
        (["--max_steps", "true"], "training.max_steps = True is invalid: give a whole number"),
        (["--bf16", "1"], "training.bf16 = 1 is invalid: give true or false"),
        (["--max_steps", "--save_steps", "3"], "--max_steps has no value: fields are overridden by"),
        (["--max_steps"], "--max_steps has no value"),
        (
            ["--model_name_or_path", "./nowhere"],
            "model.model_name_or_path = './nowhere' cannot be opened. There is no file or folder './nowhere'",
        ),
        (
            ["--model.model_type", "data2vec2-vision"],
            "fields are those of data2vec-vision: use one of demo_print.yaml, demo_vision_v2",
        ),
        (["--model_type=data2vec2-text"], "use one of demo_text_v2.yaml, text_base_v2.yaml"),
        (["--model.model_type", "data2vec-visoin"], "data2vec-audio, data2vec-text, data2vec-vision, data2vec2-audio"),
    ],
)
def test_slips_are_refused_before_anything_is_loaded(words, message, tmp_path, capsys):
    folder = tmp_path / "run"
    main = importlib.import_module("data2vec.pretraining.run").main
    assert main(["demo_vision.yaml", f"--output_dir={folder}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()
