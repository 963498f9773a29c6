"""train.py's options: the command line, over a recipe (a YAML file of option values).

This module is imported before --help is answered, so it must not import torch.
"""

import copy
import dataclasses
import math
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
TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "path": Path, "bool": bool | None}


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
    early_stopping_patience: int | None
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
        metadata: dict[str, Any] = {key: about[key] for key in ("help", "choices") if key in about}
        if about["type"] == "bool":
            metadata |= {"nargs": "?", "const": True}
        field = dataclasses.field(default=about.get("default"), metadata=metadata)
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

    def parse(self, words: list[str], over: Namespace | None = None) -> Namespace:
        """Parse words over other values; end with one line if one is unknown, of the wrong type or range."""
        values = self.parse_args(words, copy.copy(over))
        for name, limits in TABLE["limits"].items():
            value = getattr(values, name)
            if value is not None and not _within(value, **limits):
                bounds = " and ".join(f"{word.replace('_', ' ')} {bound}" for word, bound in limits.items())
                self.error(f"argument --{name}: {value} must be {bounds}")
        return values


def _within(
    number: float, above: float = -math.inf, at_least: float = -math.inf, below: float = math.inf
) -> bool:
    return above < number < below and number >= at_least


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
    values = vars(parser.parse(argv, recipe))
    batch = [  # the batch size that is asked for is the effective one
        layer.effective_batch_size or layer.per_device_train_batch_size for layer in (given, recipe)
    ]
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
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else RECIPES / f"{name}.yaml"
    try:
        # BaseLoader leaves every value as the user wrote it
        values = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader) or {}
        return [f"--{option}={value}" for option, value in values.items()]
    except OSError as error:
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise InputError(f"--recipe {name}: {error.strerror}; use a file or one of: {known}") from error
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError) as error:
        raise InputError(f"--recipe {name} is not a YAML mapping of options to values: {error}") from error


def _check_together(run: RunArguments, flags: dict[str, Any]) -> None:
    """Refuse options that contradict each other or would have no effect."""
    evaluate, save, validates = flags["eval_strategy"], flags["save_strategy"], run.validation_per_genre
    selects = {"metric_for_best_model"} & flags.keys() or run.early_stopping_patience is not None
    follows = flags.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy")
    if run.resume and run.force:
        raise InputError("--resume and --force contradict each other")
    if "save_steps" in flags and save != "steps":
        raise InputError("--save_steps has an effect only with --save_strategy steps")
    if (selects or follows) and not validates:
        raise InputError(
            "the test split never selects a model or learning rate: give --validation-per-genre N"
        )
    if validates and not evaluate == save == "epoch":
        raise InputError("--validation-per-genre goes with --eval_strategy epoch and --save_strategy epoch")
