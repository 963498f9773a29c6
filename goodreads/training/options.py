"""train.py's command line: its own options, a YAML recipe beneath them, TrainingArguments' flags beside them.

A recipe is a flat mapping of the same names; the command line wins over it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from goodreads.common.cli import one_line_error
from goodreads.common.errors import InputError
from goodreads.model.batching import BatchPlan, plan_batches

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

DEFAULTS = (  # beneath every recipe; what is not here is TrainingArguments' own default
    "--eval_strategy epoch --save_strategy epoch --save_total_limit 2 --logging_steps 0.05 "
    "--logging_nan_inf_filter false --report_to none"
).split()

REFUSED = {  # TrainingArguments that would break a promise of this pipeline, and what to use instead
    "push_to_hub": "publish with push_to_hub.py",
    "hub_token": "a token never goes on a command line; push_to_hub.py reads HF_TOKEN",
    "resume_from_checkpoint": "use --resume",
    "auto_find_batch_size": "the batch size that is asked for is kept; lower --per_device_train_batch_size",
    "train_sampling_strategy": "batches are always grouped by length",
    "dataloader_drop_last": "no review is left out of an epoch",
    "dataloader_num_workers": "batches come from memory, faster than from other processes",
    "per_device_eval_batch_size": "evaluation takes as many reviews at once as fit a number of tokens",
}


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse the command line over the recipe it names.

    Args:
        parser: train.py's own options; one of them is ``--recipe``.
        argv: the command line, without the program's name.

    Returns:
        The own options; and every TrainingArguments field, as keyword arguments still to be completed.

    Raises:
        InputError: the recipe cannot be read or names an option that does not exist.
    """
    own = {_key(option): option for option in parser._option_string_actions}
    argv = [_spelled(word, own) for word in argv]
    chosen, _ = parser.parse_known_args(argv)
    recipe = [_spelled(word, own) for word in read_recipe(chosen.recipe)]
    given, in_recipe = ({_key(word) for word in words if word.startswith("--")} for words in (argv, recipe))
    for name, instead in REFUSED.items():
        if name in given | in_recipe:
            raise InputError(f"--{name} is not for train.py: {instead}")
    options, rest = parser.parse_known_args(recipe + argv)
    training = vars(_training_parser(parser.prog).parse_args(DEFAULTS + rest))
    if "per_device_train_batch_size" not in given | in_recipe:
        training["per_device_train_batch_size"] = None
    elif "per_device_train_batch_size" in given and "effective_batch_size" not in given:
        # the batch that is asked for is the effective one
        steps = training["gradient_accumulation_steps"]
        options.effective_batch_size = training["per_device_train_batch_size"] * steps
    return options, training


def _key(word: str) -> str:
    return word.lstrip("-").split("=")[0].replace("-", "_")


def _spelled(word: str, own: dict[str, str]) -> str:
    """A flag as the parser spells it: TrainingArguments' users write underscores, others hyphens."""
    if not word.startswith("--") or _key(word) not in own:
        return word
    _, equals, value = word.partition("=")
    return own[_key(word)] + equals + value


def complete(
    options: argparse.Namespace, training: dict[str, Any], device_type: str, devices: int
) -> tuple[Any, BatchPlan]:
    """TrainingArguments with what this pipeline decides filled in, and the batch plan.

    Raises:
        InputError: the arguments contradict each other, or would let the test split select the model.
    """
    from transformers import TrainingArguments
    from transformers.utils import is_torch_tf32_available

    from goodreads.common.machine import choose_precision

    plan = plan_batches(
        options.effective_batch_size, training["per_device_train_batch_size"], devices, device_type
    )
    chosen = training | {
        "output_dir": str(options.output_dir.with_name(options.output_dir.name + "-checkpoints")),
        # the Trainer's batch is a device's whole share of a step; GenreTrainer splits it
        "per_device_train_batch_size": -(-plan.effective // plan.devices),
        "gradient_accumulation_steps": 1,
        "seed": options.seed,
        # said outright: several processes without a GPU would otherwise train apart from each other
        "use_cpu": device_type == "cpu",
        "ddp_backend": training["ddp_backend"] or ("gloo" if device_type == "cpu" and devices > 1 else None),
        # a classifier uses all its parameters; looking for unused ones takes time at every step
        "ddp_find_unused_parameters": bool(training["ddp_find_unused_parameters"]),
        "restore_callback_states_from_checkpoint": True,  # early stopping counts on after a resume
        "disable_tqdm": not sys.stderr.isatty(),
    }
    if device_type == "cuda" and not (training["bf16"] or training["fp16"]):
        chosen[choose_precision(device_type)[0]] = True
    if training["tf32"] is None and device_type == "cuda" and is_torch_tf32_available():
        chosen["tf32"] = True  # for what autocast leaves in float32
    if options.validation_per_genre:
        metric = training["metric_for_best_model"] or "eval_validation_loss"
        chosen |= {"load_best_model_at_end": True, "metric_for_best_model": metric}
    metric = chosen["metric_for_best_model"] or ""
    selects = bool(metric) or chosen["load_best_model_at_end"] or chosen["save_strategy"] == "best"
    if "test" in metric or (selects and not options.validation_per_genre):
        raise InputError("the test split never selects a model; add --validation-per-genre N")
    try:
        return TrainingArguments(**chosen), plan
    except (ValueError, TypeError) as error:
        raise InputError(f"training arguments: {error}") from error


def read_recipe(name: str) -> list[str]:
    """A recipe as command-line words; ``name`` is a file, or the stem of one in recipes/.

    Raises:
        InputError: there is no such file, or it is not a flat YAML mapping.
    """
    import yaml

    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else RECIPES / f"{name}.yaml"
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise InputError(f"--recipe {name}: {error.strerror}; use a file or one of: {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--recipe {path} is not YAML: {error}") from error
    if not isinstance(recipe, dict) or any(isinstance(v, dict | list) for v in recipe.values()):
        raise InputError(f"--recipe {path} is not a flat mapping of option names to values")
    return [word for key, value in recipe.items() for word in (f"--{key}", str(value))]


def print_training_help(prog: str) -> None:
    """Print every TrainingArguments flag, as ``--help-all`` does."""
    _training_parser(prog).print_help()


def _training_parser(prog: str) -> argparse.ArgumentParser:
    from transformers import HfArgumentParser, TrainingArguments  # 2 s: not before it is needed

    class TrainingParser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            one_line_error(prog, f"{message} (on the command line or in the recipe; see {prog} --help-all)")
            raise SystemExit(2)

    parser: argparse.ArgumentParser = TrainingParser(
        TrainingArguments, prog=prog, allow_abbrev=False, add_help=False
    )
    return parser
