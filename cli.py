"""The command `data2vec`: each sub-command hands its arguments to the `main` of a module, unread.

Help, and slips on a command line, are answered before that module is imported: it brings torch, which takes seconds.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from data2vec.finetune import command_line as finetune
from data2vec.finetune.help_text import RECIPES as FINETUNE_RECIPES
from data2vec.model_cards import command_line as model_cards
from data2vec.modeling.convert import command_line as convert
from data2vec.pretraining import command_line as pretraining
from data2vec.pretraining.console.help import EXIT_REFUSED, end


@dataclass(frozen=True)
class Command:
    """A sub-command.

    Attributes:
        what: it does, in a line.
        check: answers `--help` by SystemExit, and raises ValueError or OSError for what is wrong with the arguments.
        module: whose `main(argv)` does the work and returns the exit code, or the function that chooses it.
        recipes: the folder of those that it takes, for completion.
    """

    what: str
    check: Callable[[Sequence[str]], None]
    module: str | Callable[[Sequence[str]], str]
    recipes: Path | None = None

    def run(self, words: Sequence[str]) -> int:
        try:
            self.check(words)
            module = self.module if isinstance(self.module, str) else self.module(words)
        except (ValueError, OSError) as error:
            return end(EXIT_REFUSED, error)
        code: int = import_module(f"data2vec.{module}").main(words)
        return code

    def complete(self, incomplete: str) -> list[str]:
        """Recipes that begin so; a shell offers files where there is none."""
        names = [] if self.recipes is None else sorted(path.name for path in self.recipes.glob("*.yaml"))
        return [name for name in names if incomplete and name.startswith(incomplete)]


def _check_card(words: Sequence[str]) -> None:
    from data2vec.model_cards.card.card_yaml import CardFields

    model_cards.check_render(words, CardFields)


COMMANDS = {
    "pretrain": Command(
        "Pretrain on your own audio, images, text or points.",
        pretraining.check_command,
        "pretraining.run",
        pretraining.RECIPES,
    ),
    "finetune": Command(
        "Fine-tune an encoder; the recipe says for which task.",
        finetune.check_finetune,
        lambda words: f"finetune.{finetune.script_of(words).removesuffix('.py')}",
        FINETUNE_RECIPES,
    ),
    "probe": Command(
        "Measure what a frozen encoder knows, layer by layer.",
        lambda words: finetune.check_command("run_probe.py", words),
        "finetune.run_probe",
        FINETUNE_RECIPES,
    ),
    "embed": Command("Write the features of any layer to a parquet file.", finetune.check_embed, "finetune.embed"),
    "show": Command(
        "Draw attention, features and nearest neighbours of examples.",
        model_cards.check_show,
        "model_cards.show.command",
    ),
    "report": Command(
        "Show a run, or two side by side, on one page.", model_cards.check_report, "model_cards.report.command"
    ),
    "card": Command("Write the model card of a run.", _check_card, "model_cards.render"),
    "push": Command("Publish a run on the Hugging Face Hub.", model_cards.check_push, "model_cards.push"),
    "export": Command(
        "Export a model with torch.export or to ONNX.", model_cards.check_export, "model_cards.export.command"
    ),
    "convert": Command(
        "Convert a published checkpoint, from fairseq for example.", convert.check_command, "modeling.convert.command"
    ),
    "space": Command("Write a Gradio Space to try a model in.", model_cards.check_space, "model_cards.space.command"),
    "sweep": Command(
        "Try many settings of a recipe.", pretraining.check_sweep, "pretraining.sweep.command", pretraining.RECIPES
    ),
    "suggest": Command(
        "Print a recipe with settings for your own data, by a short pilot.",
        pretraining.check_suggest,
        "pretraining.sweep.suggest",
        pretraining.RECIPES,
    ),
    "split": Command(
        "Make a plain folder of each modality of a joint run.", pretraining.check_split, "pretraining.split"
    ),
    "tokenizer": Command(
        "Train a tokenizer on your own text.", pretraining.check_tokenizer, "pretraining.train_tokenizer"
    ),
}


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="Pretrain, fine-tune and publish data2vec 1 and 2.0. `data2vec COMMAND --help` says more of each.",
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
    )
    unread: Any = {"add_help_option": False, "context_settings": {"ignore_unknown_options": True}}
    for name, command in COMMANDS.items():
        app.command(name, help=command.what, **unread)(_hand_over(command))
    return app


def _hand_over(command: Command) -> Callable[..., None]:
    def run(
        words: Annotated[list[str] | None, typer.Argument(autocompletion=command.complete, show_default=False)] = None,
    ) -> None:
        raise typer.Exit(command.run(words or []))

    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code: int | None = typer.main.get_command(build_app()).main(words, "data2vec", standalone_mode=False)
    except typer.TyperException as error:
        return end(EXIT_REFUSED, error)
    return code or 0
