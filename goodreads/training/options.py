"""train.py's own options, and recipes: YAML files of option values beneath the command line.

This module is imported before the command line is read, so it must not import torch.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers.hf_argparser import HfArgumentParser

from goodreads.common.cli import Parser, similar_options
from goodreads.common.errors import InputError
from goodreads.data.review_files import UCSD

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
EPILOG = (
    "The flags of transformers' TrainingArguments that have an effect here are accepted too, such as "
    "--learning_rate and --num_train_epochs; --help-all lists them. What is not given comes from the recipe."
)
DATA, MODEL, RESULTS = Path("data"), Path("model"), Path("results")
BASE_MODEL = "distilbert-base-cased"
COMMAND_LINE_ONLY = ("recipe", "resume", "force", "debug", "help", "help_all")
LIMITS: list[tuple[str, Callable[[float], bool], str]] = [
    ("above 0", lambda x: x > 0, "num_train_epochs learning_rate adam_epsilon save_steps logging_steps"),
    ("at least 0", lambda x: x >= 0, "weight_decay max_grad_norm warmup_steps validation_per_genre"),
    ("at least 0", lambda x: x >= 0, "early_stopping_patience"),
    ("at least 1", lambda x: x >= 1, "effective_batch_size per_device_train_batch_size save_total_limit"),
    ("at least 1", lambda x: x >= 1, "ddp_timeout ddp_bucket_cap_mb"),
    ("at least 1", lambda x: x >= 1 or x == -1, "max_steps"),  # transformers' -1: as the epochs say
    ("at least 2", lambda x: x >= 2, "max_length"),
    ("at least 0 and below 1", lambda x: 0 <= x < 1, "adam_beta1 adam_beta2 label_smoothing_factor"),
    ("at least 0 and below 2**32", lambda x: 0 <= x < 2**32, "seed"),
]


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class RunArguments:
    """The options that are this pipeline's own."""

    recipe: str = _option("default", "YAML file of option values, or the name of one in recipes/")
    resume: bool = _option(False, "continue an interrupted run from its last complete checkpoint")
    force: bool = _option(False, "start anew although an interrupted run left checkpoints: remove them")
    require_gpu: bool = _option(False, "stop, rather than train on the CPU, if there is no GPU")
    seed: int = _option(42, "seed of the new weights, the batch order and dropout")
    data_dir: Path = field(default=DATA, metadata={"help": "folder of the split; made if it has none"})
    source: str = _option(UCSD, "what to make missing data from, as in data_loader.py")
    max_length: int = _option(512, "tokens kept of a review")
    validation_per_genre: int = _option(0, "reviews per genre kept from training to select the epoch")
    early_stopping_patience: int | None = _option(
        None, "epochs without a better validation loss before stopping (2 if not given); 0: never"
    )
    model_name_or_path: str = _option(BASE_MODEL, "model id, folder, or 'scratch' for a small new one")
    effective_batch_size: int = _option(16, "reviews per optimizer step, over all devices")
    output_dir: Path = field(default=MODEL, metadata={"help": "model folder; the checkpoints go beside it"})
    results_dir: Path = field(default=RESULTS, metadata={"help": "folder for training_log.json"})
    source_given: bool = field(default=False, init=False)  # whether the command line says --source

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints, beside the model folder."""
        named = self.output_dir.name not in ("", "..")
        folder = self.output_dir if named else self.output_dir.resolve()
        if not folder.name:
            raise InputError(f"--output_dir {self.output_dir} is the root folder; name another")
        return folder.with_name(folder.name + "-checkpoints")


class OptionParser(Parser, HfArgumentParser):
    """A parser of dataclasses whose errors are one line.

    Args:
        doc: train.py's docstring.
        dataclass_types: as for HfArgumentParser.
        refused: flags that exist in transformers -> why they have no effect here.
    """

    def __init__(self, doc: str | None, dataclass_types: Any, refused: dict[str, str] | None = None) -> None:
        super().__init__(doc, prog="train.py", epilog=EPILOG, dataclass_types=dataclass_types)
        self.add_argument("--help-all", action="store_true", help="list the TrainingArguments flags and exit")
        self.refused = refused or {}
        self.place = ""  # of the recipe's value that is being parsed

    def error(self, message: str) -> NoReturn:
        """End with status 2 after one line: what is wrong and, for a flag of transformers, what to use."""
        unknown = re.match(r"unrecognized arguments: --([\w-]+)", message)
        if unknown and (name := unknown[1].replace("-", "_")) in self.refused:
            raise InputError(f"--{name} has no effect here: {self.refused[name]}")
        super().error(self.place + message)


def answer_help(doc: str | None, argv: list[str]) -> None:
    """Print the help and exit if it is asked for; refuse wrong values of the own options."""
    OptionParser(doc, (RunArguments,)).parse_known_args(argv)


def check_limits(name: str, value: object, said: str) -> None:
    """Refuse a number outside its range.

    Args:
        name: of the option.
        value: as parsed.
        said: the option and its value as the user wrote them, for the error.

    Raises:
        InputError: the number is not finite or not in the option's range.
    """
    if isinstance(value, int | float):
        for text, allowed, names in LIMITS:
            if name in names.split() and not (math.isfinite(value) and allowed(value)):
                raise InputError(f"{said}: it must be {text}")


def read_recipe(name: str, parser: OptionParser) -> dict[str, str]:
    """Option -> value, as text, of a recipe; every value is one that the option accepts.

    Args:
        name: a YAML file, or the stem of one in recipes/.
        parser: knows the options.

    Raises:
        InputError: there is no such file, it is not a flat YAML mapping, or an option or value is wrong.
    """
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else RECIPES / f"{name}.yaml"
    place = f"--recipe {name}"
    try:
        # nodes, not values: they keep what the user wrote, and keys that stand there twice
        document = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise InputError(f"{place}: {error.strerror}; use a file or one of: {known}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{place} is not YAML: {error}") from error
    if document is not None and not isinstance(document, yaml.MappingNode):
        raise InputError(f"{place} is not a mapping of option names to values")
    values: dict[str, str] = {}
    for key, value in document.value if document else []:
        line = f"{place}, line {key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)):
            raise InputError(f"{line}: a nested value; an option has one value, JSON in quotes included")
        option = key.value.replace("-", "_")
        said = f"{line}: {key.value}: {value.value}"
        if option in values:
            raise InputError(f"{said}: {key.value} stands there twice")
        if value.tag.endswith(":null"):
            raise InputError(f"{said}: it has no value; leave the line out for the default")
        _check_value(option, value.value, said, parser)
        values[option] = value.value
    return values


def _check_value(option: str, text: str, said: str, parser: OptionParser) -> None:
    known = vars(parser.parse_args([])).keys()
    if option in parser.refused:
        raise InputError(f"{said}: it has no effect here: {parser.refused[option]}")
    if option in COMMAND_LINE_ONLY:
        raise InputError(f"{said}: that belongs on the command line, not into a recipe")
    if option not in known:
        similar = " or ".join(similar_options(option, list(known)))
        raise InputError(
            f"{said}: there is no such option" + (f"; did you mean {similar}?" if similar else "")
        )
    parser.place = f"{said}: "
    check_limits(option, getattr(parser.parse_args([f"--{option}={text}"]), option), said)
    parser.place = ""
