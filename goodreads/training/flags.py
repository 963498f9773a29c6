"""The flags of transformers' TrainingArguments that train.py honours, and the arguments made from them."""

import copy
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any, get_type_hints

import torch
import yaml
from transformers import SchedulerType, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.training_args import OptimizerNames
from transformers.utils import is_torch_tf32_available

from goodreads.common.errors import InputError
from goodreads.common.machine import choose_precision
from goodreads.model.batching import BatchPlan, plan_batches
from goodreads.training.options import OptionParser, RunArguments, check_limits, read_recipe

FLAGS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
HONOURED: dict[str, str | None] = FLAGS["honoured"]
UNKNOWN_UNTIL_GIVEN = (
    "per_device_train_batch_size",
    "save_steps",
    "bf16",
    "fp16",
    "source",
    "effective_batch_size",
)
METRICS = (
    "loss",
    "accuracy",
    *(f"{m}_{a}" for m in ("precision", "recall", "f1") for a in ("weighted", "macro")),
)
ON_A_LOSS = ("reduce_lr_on_plateau", "greedy")  # schedules
TRIAL_STEPS = 100


def _parser(doc: str | None) -> OptionParser:
    hints = get_type_hints(TrainingArguments)
    known = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    fields = []
    for name, text in HONOURED.items():
        metadata = {**known[name].metadata, **({"help": text} if text else {})}
        fields.append((name, hints[name], dataclasses.field(default=known[name].default, metadata=metadata)))
    flags = dataclasses.make_dataclass(
        "Flags", fields, namespace={"_argument_group_name": "flags of transformers.TrainingArguments"}
    )
    refused = {
        name: next(text for start, text in FLAGS["instead"].items() if name.startswith(start))
        for name in known.keys() - HONOURED.keys() - {"output_dir", "seed", "debug"}
    }
    parser = OptionParser(doc, (RunArguments, flags), refused)
    parser.set_defaults(**FLAGS["defaults"], **dict.fromkeys(UNKNOWN_UNTIL_GIVEN))
    return parser


def parse(doc: str | None, argv: list[str]) -> tuple[RunArguments, dict[str, Any]]:
    """Parse the command line over the recipe it names.

    Args:
        doc: train.py's docstring, for --help-all.
        argv: the command line, without the program's name.

    Returns:
        The own options; and the honoured TrainingArguments, still to be completed.

    Raises:
        InputError: the recipe cannot be read, or an option is wrong, has no effect or contradicts another.
    """
    parser = _parser(doc)
    given = vars(parser.parse_args(argv))
    if given["help_all"]:
        parser.print_help()
        raise SystemExit(0)
    for name, value in given.items():
        check_limits(name, value, f"--{name} {value}")
    recipe: dict[str, Any] = read_recipe(given["recipe"], parser)
    for layer in (recipe, given):  # the batch size that is asked for is the effective one
        reviews = layer.get("per_device_train_batch_size")
        if reviews is not None and layer.get("effective_batch_size") is None:
            recipe["effective_batch_size"] = reviews
    own = {field.name: field.default for field in dataclasses.fields(RunArguments)}
    parser.set_defaults(**{name: own[name] for name in ("source", "effective_batch_size")} | recipe)
    values = vars(parser.parse_args(argv))
    run = RunArguments(**{f.name: values[f.name] for f in dataclasses.fields(RunArguments) if f.init})
    run.source_given = given["source"] is not None
    flags = {name: values[name] for name in HONOURED}
    _check_together(run, flags)
    return run, flags


def _check_together(run: RunArguments, flags: dict[str, Any]) -> None:
    """Refuse options that contradict each other or would have no effect."""
    evaluate, save, scheduler = flags["eval_strategy"], flags["save_strategy"], flags["lr_scheduler_type"]
    metric, kwargs = flags["metric_for_best_model"], flags["lr_scheduler_kwargs"]
    chooses = metric or flags["greater_is_better"] is not None or scheduler in ON_A_LOSS
    validates = run.validation_per_genre > 0
    need = "only with --validation-per-genre N"
    for wrong, message in (
        (run.resume and run.force, "--resume and --force contradict each other"),
        (
            evaluate == "steps",
            "--eval_strategy steps: the splits are evaluated after each epoch; say epoch or no",
        ),
        (save == "best", "--save_strategy best: --validation-per-genre N selects the epoch"),
        (
            flags["save_steps"] and save != "steps",
            "--save_steps has an effect only with --save_strategy steps",
        ),
        (
            not validates and run.early_stopping_patience is not None,
            f"--early_stopping_patience has an effect {need}",
        ),
        (not validates and chooses, f"the test split never selects a model or learning rate; {need}"),
        ("test" in (metric or ""), "the test split never selects a model; name a validation metric"),
        (_bare(metric) not in METRICS, f"--metric_for_best_model {metric} is none of {', '.join(METRICS)}"),
        (
            validates and (evaluate, save) != ("epoch", "epoch"),
            "--validation-per-genre goes with --eval_strategy epoch and --save_strategy epoch",
        ),
        (
            not _is_object(kwargs),
            f"--lr_scheduler_kwargs {kwargs}: not a JSON object such as '{{\"power\": 2}}'",
        ),
    ):
        if wrong:
            raise InputError(message)


def _bare(metric: str | None) -> str:
    return (metric or "loss").removeprefix("eval_").removeprefix("validation_")


def _is_object(text: str | None) -> bool:
    try:
        return text is None or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def complete(
    run: RunArguments, flags: dict[str, Any], device_type: str, devices: int
) -> tuple[TrainingArguments, BatchPlan]:
    """TrainingArguments with what this pipeline decides filled in and tried out, and the batch plan.

    Args:
        run, flags: of ``parse``.
        device_type: cuda, mps or cpu.
        devices: number of processes.

    Raises:
        InputError: an argument is impossible here, or needs a package that is not installed.
    """
    plan = plan_batches(run.effective_batch_size, flags["per_device_train_batch_size"], devices, device_type)
    on_cpu, on_cuda = device_type == "cpu", device_type == "cuda"
    precision = {name: bool(flags[name]) for name in ("bf16", "fp16")}
    if on_cuda and flags["bf16"] is None and flags["fp16"] is None:
        precision[choose_precision(device_type)[0]] = True
    if on_cpu and precision["fp16"]:
        raise InputError("--fp16 needs a GPU; on a CPU train in float32 or with --bf16")
    chosen = (
        flags
        | precision
        | {
            "output_dir": str(run.checkpoints),
            # for the Trainer a batch is a device's whole share of a step; GenreTrainer splits it
            "per_device_train_batch_size": math.ceil(plan.effective / devices),
            "seed": run.seed,
            "use_cpu": on_cpu,  # otherwise processes without a GPU would not form a group
            "ddp_backend": (flags["ddp_backend"] or ("gloo" if on_cpu else None)) if devices > 1 else None,
            # a classifier uses all its parameters; looking for unused ones takes time at every step
            "ddp_find_unused_parameters": bool(flags["ddp_find_unused_parameters"]),
            "restore_callback_states_from_checkpoint": True,  # early stopping counts on
            "logging_nan_inf_filter": False,
            "save_steps": flags["save_steps"] or 500,
            "save_total_limit": None,  # transformers would remove strangers' folders too
            "disable_tqdm": not sys.stderr.isatty()
            if flags["disable_tqdm"] is None
            else flags["disable_tqdm"],
            # for the operations that autocast keeps in float32
            "tf32": flags["tf32"]
            if flags["tf32"] is not None
            else (on_cuda and is_torch_tf32_available()) or None,
        }
    )
    if run.validation_per_genre:
        metric = f"eval_validation_{_bare(flags['metric_for_best_model'])}"
        chosen |= {"load_best_model_at_end": True, "metric_for_best_model": metric}
    try:
        arguments = TrainingArguments(**chosen)
    except Exception as error:
        raise InputError(f"training arguments: {error}") from error
    _try_out(arguments)
    return arguments, plan


def _try_out(arguments: TrainingArguments) -> None:
    """Try loggers, optimizer and schedule now rather than after the data are read."""
    for logger in set(arguments.report_to or ()) - set(get_available_reporting_integrations()):
        raise InputError(f"--report_to {logger}: not installed (pip install {logger}), or no known logger")
    layer: Any = torch.nn.Linear(1, 1)  # in place of a model
    layer(torch.ones(1)).backward()
    schedule, options = str(SchedulerType(arguments.lr_scheduler_type).value), arguments.lr_scheduler_kwargs
    flag = f"--optim {OptimizerNames(arguments.optim).value}"
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, layer)
        optimizer = kind(layer.parameters(), **settings)
        without = copy.copy(arguments)
        without.optim_args = None
        if arguments.optim_args and (kind, settings) == Trainer.get_optimizer_cls_and_kwargs(without, layer):
            raise ValueError(f"--optim_args {arguments.optim_args} has no effect on this optimizer")
        flag = f"--lr_scheduler_type {schedule}"
        warmup = arguments.get_warmup_steps(TRIAL_STEPS)
        scheduler = get_scheduler(
            schedule, optimizer, warmup, TRIAL_STEPS, options if isinstance(options, dict) else None
        )
        for _ in range(TRIAL_STEPS):
            optimizer.step()
            scheduler.step(*[1.0] * (schedule in ON_A_LOSS))
            rate = optimizer.param_groups[0]["lr"]
            if not (math.isfinite(rate) and rate >= 0):
                raise ValueError(f"it leads to a learning rate of {rate}")
    except Exception as error:
        raise InputError(f"{flag}: {error}") from error
