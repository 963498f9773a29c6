"""train.py's options: the command line, over a recipe (a YAML file of option values).

This module is imported before --help is answered, so it must not import torch.
"""

import dataclasses
import math
import operator
import re
from argparse import Namespace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers.hf_argparser import HfArgumentParser

from goodreads.common.cli import Parser
from goodreads.common.errors import InputError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
FLAGS: dict[str, dict[str, Any]] = TABLE["flags"]
TYPES = {"int": int, "float": float, "str": str, "path": Path, "bool": bool}
LIMITS = {"above": operator.gt, "at least": operator.ge, "below": operator.lt}


@dataclasses.dataclass
class RunArguments:
    """The options that are this pipeline's own; options.yaml has their defaults."""

    recipe: str
    resume: bool
    force: bool
    require_gpu: bool
    seed: int
    data_dir: Path
    source: str | None
    max_length: int
    validation_per_genre: int
    model_name_or_path: str
    effective_batch_size: int
    output_dir: Path
    results_dir: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints, beside the model folder."""
        return Path(f"{self.output_dir}-checkpoints")


def _dataclass(table: dict[str, dict[str, Any]], title: str) -> type:
    """A dataclass for HfArgumentParser of options of a table; None: not given, and no default here."""
    fields = []
    for name, about in table.items():
        field = dataclasses.field(default=about.get("default"), metadata=about)
        fields.append((name, TYPES[about["type"]], field))
    return dataclasses.make_dataclass("Options", fields, namespace={"_argument_group_name": title})


class OptionParser(Parser, HfArgumentParser):
    """The parser of all options; its errors are one line.

    Args:
        doc: train.py's docstring.
    """

    def __init__(self, doc: str | None) -> None:
        flags = "flags of transformers' TrainingArguments that have an effect here"
        types = (_dataclass(TABLE["own"], "own options"), _dataclass(FLAGS, flags))
        super().__init__(doc, prog="train.py", dataclass_types=types)
        self.place = ""  # where the words come from that are being parsed

    def error(self, message: str) -> NoReturn:
        """End with status 2 after one line: what is wrong and, for a flag of transformers, what to use."""
        if unknown := re.match(r"unrecognized arguments: --([\w-]+)", message):
            name = unknown[1].replace("-", "_")
            if instead := [text for start, text in TABLE["instead"].items() if name.startswith(start)]:
                raise InputError(f"{self.place}--{name} has no effect here: {instead[0]}")
        super().error(self.place + message)

    def parse(self, words: list[str]) -> Namespace:
        """Parse words; end with one line if one is unknown, of the wrong type or out of its range."""
        values = self.parse_args(words)
        for name, limits in TABLE["limits"].items():
            if (value := getattr(values, name)) is None:
                continue
            if not (math.isfinite(value) and all(LIMITS[word](value, limits[word]) for word in limits)):
                bounds = " and ".join(f"{word} {bound}" for word, bound in limits.items())
                self.error(f"argument --{name}: {value} must be {bounds}")
        return values


def parse(doc: str | None, argv: list[str]) -> tuple[RunArguments, dict[str, Any]]:
    """Parse the command line over the recipe it names.

    Args:
        doc: train.py's docstring, for --help.
        argv: the command line, without the program's name.

    Returns:
        The own options; and the flags of TrainingArguments that are given or have a default here.

    Raises:
        InputError: the recipe cannot be read, or an option has no effect or contradicts another.
        SystemExit: after --help, or one line that says what is wrong.
    """
    parser = OptionParser(doc)
    given = parser.parse(argv)
    parser.place = f"--recipe {given.recipe}: "
    recipe = parser.parse(read_recipe(given.recipe))
    if recipe.recipe != "default":
        parser.error("a recipe cannot name another")
    parser.set_defaults(**vars(recipe))
    values = vars(parser.parse(argv))
    # the batch size that is asked for is the effective one
    batch = [layer.effective_batch_size or layer.per_device_train_batch_size for layer in (given, recipe)]
    values["effective_batch_size"] = batch[0] or batch[1] or 16
    run = RunArguments(**{name: values[name] for name in TABLE["own"]})
    flags = {name: values[name] for name in FLAGS if values[name] is not None}
    _check_together(run, flags)
    return run, flags


def read_recipe(name: str) -> list[str]:
    """The values of a recipe, as words of a command line.

    Args:
        name: a YAML file, or the stem of one in recipes/.

    Raises:
        InputError: there is no such file, or it is no YAML mapping of options to values.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    try:
        # BaseLoader leaves every value as the user wrote it
        values = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader) or {}
        return [f"--{option}={value}" for option, value in values.items()]
    except Exception as error:  # what a file may hold has no end
        known = " or ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise InputError(f"--recipe {name} is not a YAML mapping of options ({error}) nor {known}") from error


def _check_together(run: RunArguments, flags: dict[str, Any]) -> None:
    """Refuse options that contradict each other or would have no effect."""
    evaluate, save, validates = flags["eval_strategy"], flags["save_strategy"], run.validation_per_genre
    selects = flags.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy")
    selects |= "metric_for_best_model" in flags
    rarely = validates and not evaluate == save == "epoch"
    wrong = {
        "--resume and --force contradict each other": run.resume and run.force,
        "--save_steps goes with --save_strategy steps": "save_steps" in flags and save != "steps",
        "the test split never selects anything: give --validation-per-genre N": selects and not validates,
        "--validation-per-genre goes with --eval_strategy epoch and --save_strategy epoch": rarely,
    }
    if found := [said for said, is_wrong in wrong.items() if is_wrong]:
        raise InputError(found[0])
