"""What help lists and slips are checked against without importing torch is what the classes hold."""

import dataclasses
import importlib
import json
import subprocess
import sys

import pytest
from transformers import CONFIG_MAPPING, MODEL_FOR_PRETRAINING_MAPPING

from data2vec.cli import COMMANDS
from data2vec.finetune.arguments import FineTuneArguments
from data2vec.finetune.command_line import ARGUMENTS
from data2vec.finetune.help_text import COMMANDS as SCRIPTS
from data2vec.modeling.configuration_objective import objective_class_of
from data2vec.pretraining import command_line
from data2vec.pretraining.console.fields import fields_of
from data2vec.pretraining.modalities.build import MODEL_TYPES
from data2vec.pretraining.modalities.methods import BUILT_IN
from tests.code_blocks import ROOT


HOMES = {*command_line.CLASSES.values(), *(built.reads.arguments for built in BUILT_IN.values()), ARGUMENTS}
HOMES |= {built.objective for built in BUILT_IN.values()}
HOMES |= {home for words in SCRIPTS.values() for home in (words.data, words.task)}


@pytest.mark.parametrize(("module", "name"), sorted(HOMES))
def test_fields_are_those_of_the_class(module, name):
    found = getattr(importlib.import_module(module), name)
    assert sorted(fields_of(module, name)) == sorted(field.name for field in dataclasses.fields(found) if field.init)


@pytest.mark.parametrize("model_type", BUILT_IN)
def test_model_types_are_those_that_are_pretrained(model_type):
    built, config_class = BUILT_IN[model_type], CONFIG_MAPPING[model_type]
    assert built.config.open() is config_class and built.objective.open() is objective_class_of(config_class)
    assert sorted(command_line.model_fields(model_type)) == sorted(
        f.name for f in dataclasses.fields(config_class) if f.init
    )
    pretraining = MODEL_FOR_PRETRAINING_MAPPING[config_class]
    assert built.pretraining_fields == tuple(pretraining.config_fields)
    assert built.reads.arguments.open() is MODEL_TYPES[model_type].arguments_class


def test_fine_tuning_reads_the_classes_of_its_tasks():
    assert getattr(importlib.import_module(ARGUMENTS[0]), ARGUMENTS[1]) is FineTuneArguments
    for script, words in SCRIPTS.items():
        module = importlib.import_module(f"data2vec.finetune.{script.removesuffix('.py')}")
        tasks = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and getattr(value, "script", None) == script
        ]
        assert tasks, f"{script} names no task"
        for task in tasks:
            assert (task.data_class.__module__, task.data_class.__name__) == words.data
            assert (task.arguments_class.__module__, task.arguments_class.__name__) == words.task


EARLY = """
import json, os, runpy, sys
import data2vec.cli, data2vec.finetune.command_line, data2vec.pretraining.command_line
answers = {}
for words in json.load(sys.stdin):
    reads, writes = os.pipe()
    work = os.fork()
    if work == 0:
        os.dup2(writes, 1), os.dup2(writes, 2)
        sys.argv, code = words.split(), 98
        try:
            if sys.argv[0].endswith(".py"):
                runpy.run_path(sys.argv[0], run_name="__main__")
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        except SystemExit as done:
            heavy = {"torch", "transformers", "datasets", "numpy"} & set(sys.modules)
            print(f"imported {heavy}" if heavy else "", flush=True)
            code = 99 if heavy else done.code or 0
        finally:
            os._exit(code)
    os.close(writes)
    said = open(reads).read()
    answers[words] = [os.waitstatus_to_exitcode(os.waitpid(work, 0)[1]), said]
print(json.dumps(answers))
"""


COMMAND_LINES = [
    ("pretraining/run.py --help", 0, "fields of training"),
    ("pretraining/run.py zzz.yaml", 2, "There is no recipe 'zzz.yaml'"),
    ("pretraining/run.py demo_text.yaml --learning_rat 1", 2, "Did you mean --learning_rate?"),
    ("pretraining/run.py demo_text.yaml --objective.vews 2", 2, "did you mean 'views'?"),
    ("pretraining/run.py demo_vision.yaml --model.patch_siz 2", 2, "did you mean 'patch_size'?"),
    ("pretraining/run.py demo_vision.yaml --data.max_second 2", 2, "data.max_second is not a field"),
    *((f"finetune/{script} --help", 0, "fields of task") for script in SCRIPTS),
    *((f"finetune/{script} zzz.yaml", 2, "There is no recipe 'zzz.yaml'") for script in SCRIPTS),
    *((f"data2vec.{module} --help", 0, "documentation:") for module in (
        "pretraining.consolidate", "finetune.train_ngram", "modeling.convert", "modeling.convert_fairseq",
    )),
    *((f"data2vec {command} --help", 0, "documentation:") for command in COMMANDS),
    ("data2vec --help", 0, "pretrain"),
    ("data2vec pretrian", 2, "error: No such command 'pretrian'. Did you mean 'pretrain'?"),
    ("data2vec pretrain demo_text.yaml --learning_rat 1", 2, "Did you mean --learning_rate?"),
    ("data2vec finetune esc10_small.yaml --help", 0, "recipes that come with the package"),
    ("data2vec finetune demo_text.yaml", 2, "There is no recipe 'demo_text.yaml'"),
    ("data2vec finetune esc10_small.yaml --task.name smell", 2, "task.name = 'smell': the recipe must say"),
    ("data2vec tokenizer out --vocab_size 300 --data zzz.txt", 2, "no file or folder 'zzz.txt'"),
    ("data2vec tokenizer out --vocab_size 300 --data zzz*.txt", 2, "correct the pattern"),
    ("data2vec.pretraining.consolidate zzz out", 2, "zzz has no config.json"),
    ("data2vec split zzz out", 2, "zzz is no finished joint run"),
    ("data2vec sweep zzz.yaml", 2, "There is no recipe 'zzz.yaml'"),
    ("data2vec sweep demo_vision.yaml --trails 2", 2, "Did you mean --trials?"),
    ("data2vec sweep demo_vision.yaml --objective.vews 2", 2, "did you mean 'views'?"),
    ("data2vec.finetune.train_ngram out --data zzz.txt", 2, "no file or folder 'zzz.txt'"),
    ("data2vec.modeling.convert zzz.pt out", 2, "zzz.pt is not a file"),
    ("data2vec.modeling.convert pyproject.toml tests", 2, "tests is there already"),
    ("data2vec.modeling.convert_fairseq zzz out.pt --to-fairseq", 2, "zzz has no config.json"),
    ("data2vec card zzz", 2, "'zzz' is not a folder"),
    ("data2vec push zzz me/zzz", 2, "'zzz' is not a folder"),
    ("data2vec push tests me/zzz", 2, "'tests' has no config.json"),
    ("data2vec report tests zzz", 2, "'tests' holds nothing of a run"),
    ("data2vec export ./zzz out --int8", 2, "add onnx to --format"),
    ("data2vec export ./zzz out", 2, "no file or folder './zzz'"),
    ("data2vec space ./zzz", 2, "no file or folder './zzz'"),
    ("data2vec space tests --push me/zzz", 2, "--push needs --model_id"),
]  # fmt: skip


@pytest.fixture(scope="module")
def answers():
    """What each command line ends with and says, each in a fork of one process that holds what parses them."""
    asked = json.dumps([words for words, _, _ in COMMAND_LINES])
    done = subprocess.run([sys.executable, "-c", EARLY], cwd=ROOT, capture_output=True, text=True, input=asked)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("words", "code", "said"), COMMAND_LINES)
def test_help_and_slips_are_answered_before_torch_is_imported(answers, words, code, said):
    ended, output = answers[words]
    assert ended == code and said in output, output


def test_a_method_may_have_an_objective_of_its_own(monkeypatch):
    """Its fields are then known, and those of no other type: here, for want of one, those of a recipe's data."""
    built = dataclasses.replace(BUILT_IN["data2vec2-text"], objective=BUILT_IN["data2vec2-text"].reads.arguments)
    monkeypatch.setitem(BUILT_IN, "data2vec2-text", built)
    known = command_line.field_names("objective", {"model": {"model_type": "data2vec2-text"}})
    assert "block_size" in known and "views" not in known
