"""Between the options and the training: environment, TrainingArguments, folders, data, the Trainer."""

import math
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import transformers

from goodreads.common import files, machine
from goodreads.common.errors import InputError
from goodreads.common.progress import log
from goodreads.data import split_store
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.model.batching import BatchPlan, plan_batches
from goodreads.model.checkpoint import check_replaceable
from goodreads.training.options import TABLE, RunArguments
from goodreads.training.trainer import GenreTrainer
from goodreads.training.training_log import LogLines

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # accelerate reads them all
# of accelerate's variables ACCELERATE_*: what becomes a flag, which do not matter, and how they say no
TAKEN = {"MIXED_PRECISION=bf16": "bf16", "MIXED_PRECISION=fp16": "fp16", "USE_CPU=true": "use_cpu"}
HARMLESS = ("LOG_LEVEL", "DEBUG_MODE", "ENABLE_RICH", "CPU_AFFINITY")
OFF = ("", "0", "no", "false", "none", "default")
PATIENCE = 2  # epochs without a better validation metric before training stops


def honour_environment(flags: dict[str, Any]) -> None:
    """Take number format and device from accelerate's variables into ``flags`` where these do not say them.

    Raises:
        InputError: a variable asks for something that train.py does not do, or for several processes that
            neither torchrun nor accelerate started.
    """
    for name, value in os.environ.items():
        if name in SIZES and value != "1" and "LOCAL_RANK" not in os.environ:
            raise InputError(
                f"{name}={value} in the environment, but no LOCAL_RANK: unset it, or use torchrun"
            )
        own = name.removeprefix("ACCELERATE_")
        if own not in (name, *HARMLESS) and value.lower() not in OFF:
            if not (flag := TAKEN.get(f"{own}={value.lower()}")):
                raise InputError(f"{name}={value} in the environment has no effect here: unset it")
            flags.setdefault(flag, True)
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # TrainingArguments would prefer it to --bf16 false


def complete(
    run: RunArguments, flags: dict[str, Any], device_type: str
) -> tuple[transformers.TrainingArguments, BatchPlan]:
    """TrainingArguments with what this pipeline decides filled in and tried out, and the batch plan.

    Several processes form their group here.

    Args:
        run, flags: of ``goodreads.training.options.parse``.
        device_type: cuda, mps or cpu.

    Raises:
        InputError: an argument is impossible here, or needs a package that is not installed.
    """
    if device_type == "cpu" and flags.get("fp16"):
        raise InputError("--fp16 needs a GPU; on a CPU train in float32 or with --bf16")
    automatic: dict[str, Any] = {"tf32": transformers.utils.is_torch_tf32_available() or None}
    if device_type == "cuda" and not flags.keys() & {"bf16", "fp16"}:
        automatic[machine.choose_precision(device_type)] = True
    decided = {"output_dir": str(run.checkpoints), "seed": run.seed, "use_cpu": device_type == "cpu"}
    if run.validation_per_genre:
        metric = flags.get("metric_for_best_model", "loss")
        decided |= {"load_best_model_at_end": True, "metric_for_best_model": f"eval_validation_{metric}"}
    make_schedule: Any = transformers.get_scheduler
    try:
        arguments = transformers.TrainingArguments(**(automatic | flags | TABLE["always"] | decided))
        # loggers, optimizer and schedule for a stand-in model, rather than after the data are read
        for logger in transformers.integrations.get_reporting_integration_callbacks(arguments.report_to):
            logger()
        kind, options = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer = kind(torch.nn.Linear(1, 1).parameters(), **options)
        make_schedule(arguments.lr_scheduler_type, optimizer, 0, 100, arguments.lr_scheduler_kwargs)
    except Exception as error:  # of any library
        raise InputError(f"training arguments: {error}") from error
    at_once = flags.get("per_device_train_batch_size")
    plan = plan_batches(run.effective_batch_size, at_once, arguments.world_size, device_type)
    # for the Trainer a batch is a device's whole share of a step; GenreTrainer splits it
    arguments.per_device_train_batch_size = math.ceil(plan.effective / plan.devices)
    return arguments, plan


@contextmanager
def claimed(run: RunArguments) -> Iterator[None]:
    """Hold the run's folders, after a check that all of them can be written.

    Raises:
        InputError: a place cannot be written, is in use by another run, would be replaced by another, or
            holds other things.
    """
    check_replaceable(run.output_dir)
    for folder in (run.data_dir, run.results_dir):
        if folder.resolve().is_relative_to(run.output_dir.resolve()):
            raise InputError(f"{folder} lies in --output_dir {run.output_dir}, which is replaced as a whole")
    for folder in (run.output_dir, run.checkpoints, run.results_dir):
        files.check_writable(folder)
    with files.locked(run.checkpoints, wait=False):
        try:
            yield
        finally:
            with suppress(OSError):  # checkpoints of an interrupted run stay
                (run.checkpoints / files.LOCK).unlink()
                run.checkpoints.rmdir()


def load_splits(run: RunArguments) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the splits by name; the data is made first if there is none.

    Raises:
        InputError: the data cannot be made, is damaged, of another source, or too little for validation.
    """
    if not (run.data_dir / "manifest.json").exists():
        parameters = Parameters(source=run.source) if run.source else Parameters()
        log.info("%s holds no data: making it from %s", run.data_dir, parameters.source)
        build_split(parameters, run.data_dir)
    manifest, train = split_store.read_manifest(run.data_dir), split_store.read_train(run.data_dir)
    source = manifest["parameters"]["source"]
    if run.source not in (None, source):
        raise InputError(f"{run.data_dir} was made from {source}, not from --source {run.source}")
    splits: dict[str, Any] = {"train": train, "test": split_store.read_split(run.data_dir, "test")}
    if run.validation_per_genre:
        if isinstance(train, split_store.ShardedSplit):
            raise InputError("--validation-per-genre goes with a sampled train split, not with shards")
        splits["train"], splits["validation"] = split_store.carve(train, run.validation_per_genre)
    return manifest, splits


def build_trainer(run: RunArguments, keeper: transformers.TrainerCallback, **parts: Any) -> GenreTrainer:
    """The Trainer with its callbacks, ``keeper`` last; ``parts`` are its further arguments."""
    # beside the results, since the checkpoints go when the run is done
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.results_dir / "tensorboard"))
    # it looks at the metric that TrainingArguments.metric_for_best_model names, of the validation split
    stops = [transformers.EarlyStoppingCallback(PATIENCE)] if run.validation_per_genre else []
    trainer = GenreTrainer(callbacks=[LogLines(), *stops, keeper], **parts)
    trainer.remove_callback(transformers.PrinterCallback)  # it prints on stdout
    return trainer


def announce(device: machine.Device, arguments: transformers.TrainingArguments, plan: BatchPlan) -> None:
    """Say what the run uses and why; idle GPUs, and without a GPU that there is none, as a warning."""
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32"
    log.info("device: %s, %s (%s); precision: %s", device.type, device.name, device.reason, precision)
    log.info("%s", plan)
    if device.type == "cuda" and (count := torch.cuda.device_count()) > plan.devices:
        again = f"torchrun --nproc-per-node {count} train.py {shlex.join(sys.argv[1:])}"
        log.warning("%d of %d GPUs are idle; use all with: %s", count - plan.devices, count, again)
    if device.type == "cpu":
        asked = f", though {asked} asks for one" if (asked := machine.gpu_asked_for()) else ""
        why, hint = f"Why: {device.reason}{asked}.", f"If there is one: {machine.CONTAINER_HINT}."
        box = ["NO GPU: training runs on the CPU.", why, hint, "To stop instead: --require-gpu."]
        log.warning("\n%s", machine.boxed(box))
