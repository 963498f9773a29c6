"""Between the options and the training: environment, TrainingArguments, folders, data, the Trainer."""

import math
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils import is_torch_tf32_available

from goodreads.common import files, machine
from goodreads.common.errors import InputError
from goodreads.common.progress import log
from goodreads.data import split_store
from goodreads.data.review_files import UCSD
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.model.batching import BatchPlan, plan_batches
from goodreads.model.checkpoint import check_replaceable
from goodreads.training.callbacks import LogLines
from goodreads.training.options import TABLE, RunArguments
from goodreads.training.trainer import GenreTrainer

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # accelerate reads them all
OFF = ("", "0", "no", "false", "none", "default")
HARMLESS = {f"ACCELERATE_{name}" for name in ("LOG_LEVEL", "DEBUG_MODE", "ENABLE_RICH", "CPU_AFFINITY")}


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turn any error into one line that begins with ``what``."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{what}: {error}") from error


def processes() -> tuple[int, int]:
    """Rank and number of processes, as torchrun and accelerate announce them in the environment.

    Raises:
        InputError: several processes, but not started by torchrun or accelerate.
    """
    if "LOCAL_RANK" not in os.environ:
        for name in SIZES:
            if (size := os.environ.get(name, "1")) != "1":
                how = "start several processes with torchrun --nproc-per-node N train.py"
                raise InputError(f"{name}={size} in the environment, but no LOCAL_RANK: unset it, or {how}")
        return 0, 1
    with _naming("LOCAL_RANK is in the environment: unset it, or start with torchrun, which also sets"):
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def quiet(rank: int) -> None:
    """No log lines of transformers, and own ones of process 0 alone."""
    transformers.logging.set_verbosity_error()  # no warning that the classifier is new: it is meant to be
    transformers.logging.disable_progress_bar()
    if rank:
        log.setLevel("ERROR")


def honour_accelerate(flags: dict[str, Any]) -> None:
    """Take number format and device from accelerate's variables into ``flags`` where these do not say them.

    Raises:
        InputError: a variable asks for something that train.py does not do.
    """
    # taken away, since TrainingArguments would prefer it to --bf16 false
    precision = os.environ.pop("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "fp16", "bf16"):
        raise InputError(f"ACCELERATE_MIXED_PRECISION={precision} in the environment: use no, fp16 or bf16")
    if precision != "no" and not flags.keys() & {"bf16", "fp16"}:
        flags[precision] = True
    for name, value in os.environ.items():
        if name == "ACCELERATE_USE_CPU" and value.lower() in ("1", "true", "yes"):
            flags["use_cpu"] = True
        elif name.startswith("ACCELERATE_") and name not in HARMLESS and value.lower() not in OFF:
            raise InputError(f"{name}={value} in the environment is not supported; unset it")


def complete(
    run: RunArguments, flags: dict[str, Any], device_type: str, devices: int
) -> tuple[transformers.TrainingArguments, BatchPlan]:
    """TrainingArguments with what this pipeline decides filled in and tried out, and the batch plan.

    Args:
        run, flags: of ``goodreads.training.options.parse``.
        device_type: cuda, mps or cpu.
        devices: number of processes.

    Raises:
        InputError: an argument is impossible here, or needs a package that is not installed.
    """
    at_once = flags.get("per_device_train_batch_size")
    plan = plan_batches(run.effective_batch_size, at_once, devices, device_type)
    automatic: dict[str, Any] = {}
    on_cpu = device_type == "cpu"
    if on_cpu and flags.get("fp16"):
        raise InputError("--fp16 needs a GPU; on a CPU train in float32 or with --bf16")
    if device_type == "cuda":
        automatic["tf32"] = is_torch_tf32_available() or None
        if not flags.keys() & {"bf16", "fp16"}:
            automatic[machine.choose_precision(device_type)] = True
    decided = {
        "output_dir": str(run.checkpoints),
        # for the Trainer a batch is a device's whole share of a step; GenreTrainer splits it
        "per_device_train_batch_size": math.ceil(plan.effective / devices),
        "seed": run.seed,
        "use_cpu": on_cpu,  # otherwise processes without a GPU would not form a group
        "ddp_backend": "gloo" if on_cpu and devices > 1 else None,
    }
    if run.validation_per_genre:
        metric = flags.get("metric_for_best_model", "loss")
        decided |= {"load_best_model_at_end": True, "metric_for_best_model": f"eval_validation_{metric}"}
    with _naming("training arguments"):
        arguments = transformers.TrainingArguments(**(automatic | flags | TABLE["always"] | decided))
    _try_out(arguments)
    return arguments, plan


def _try_out(arguments: transformers.TrainingArguments) -> None:
    """Make loggers, optimizer and schedule for a stand-in model now, rather than after the data are read."""
    layer: Any = torch.nn.Linear(1, 1)
    with _naming("--report_to"):
        for logger in get_reporting_integration_callbacks(arguments.report_to):
            logger()
    with _naming("--optim " + arguments.optim):
        kind, options = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments, layer)
        optimizer = kind(layer.parameters(), **options)
    schedule, extra = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs
    with _naming(f"--lr_scheduler_kwargs {extra}, --lr_scheduler_type " + schedule):
        transformers.get_scheduler(schedule, optimizer, 0, 100, extra)  # type: ignore[arg-type]


@contextmanager
def claimed(run: RunArguments) -> Iterator[None]:
    """Hold the run's folders, after a check that all of them can be written.

    Raises:
        InputError: a place cannot be written, is in use by another run, would be replaced by another, or
            holds other things.
    """
    check_replaceable(run.output_dir)
    model = Path(os.path.realpath(run.output_dir))
    for folder in (run.data_dir, run.results_dir):
        if Path(os.path.realpath(folder)).is_relative_to(model):
            raise InputError(f"{folder} lies in --output_dir {run.output_dir}, which is replaced as a whole")
    for folder in (run.output_dir, run.checkpoints, run.results_dir):
        files.check_writable(folder)
    with files.locked(run.checkpoints, wait=False):
        try:
            yield
        finally:
            if [path.name for path in run.checkpoints.iterdir()] == [files.LOCK]:
                (run.checkpoints / files.LOCK).unlink()
                with suppress(OSError):
                    run.checkpoints.rmdir()


def load_splits(run: RunArguments) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the splits by name; the data is made first if there is none.

    Raises:
        InputError: the data cannot be made, is damaged, of another source, or too little for validation.
    """
    if not (run.data_dir / "manifest.json").exists():
        log.info("%s holds no data: making it from %s", run.data_dir, run.source or UCSD)
        build_split(Parameters(source=run.source or UCSD), run.data_dir)
    manifest, train = split_store.read_manifest(run.data_dir), split_store.read_train(run.data_dir)
    source = manifest["parameters"]["source"]
    if run.source not in (None, source):
        raise InputError(
            f"--source {run.source}: {run.data_dir} was made from {source}; name another --data-dir"
        )
    splits: dict[str, Any] = {"train": train, "test": split_store.read_split(run.data_dir, "test")}
    if run.validation_per_genre:
        if isinstance(train, split_store.ShardedSplit):
            raise InputError("--validation-per-genre goes with a sampled train split, not with shards")
        splits["train"], splits["validation"] = split_store.carve(train, run.validation_per_genre)
    return manifest, splits


def build_trainer(run: RunArguments, *listeners: transformers.TrainerCallback, **parts: Any) -> GenreTrainer:
    """The Trainer with its callbacks, ``listeners`` last; ``parts`` are its further arguments."""
    # beside the results, since the checkpoints go when the run is done
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.results_dir / "tensorboard"))
    patience = 2 if run.early_stopping_patience is None else run.early_stopping_patience
    # it looks at the metric that TrainingArguments.metric_for_best_model names, of the validation split
    stops = [transformers.EarlyStoppingCallback(patience)] if run.validation_per_genre and patience else []
    trainer = GenreTrainer(callbacks=[LogLines(), *stops, *listeners], **parts)
    trainer.remove_callback(transformers.PrinterCallback)  # it prints on stdout
    return trainer


def announce(device: machine.Device, arguments: transformers.TrainingArguments, plan: BatchPlan) -> None:
    """Say what the run uses and why; idle GPUs, and without a GPU that there is none, as a warning."""
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32"
    log.info("device: %s, %s (%s); precision: %s", device.type, device.name, device.reason, precision)
    log.info("%s", plan)
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if count > plan.devices:
        again = f"torchrun --nproc-per-node {count} train.py {shlex.join(sys.argv[1:])}"
        log.warning("%d of %d GPUs are idle; use all with: %s", count - plan.devices, count, again)
    if device.type == "cpu":
        asked = machine.gpu_asked_for()
        box = [
            "NO GPU: training runs on the CPU.",
            f"Why: {device.reason}{f', although {asked}' if asked else ''}.",
            f"If there is one: {machine.CONTAINER_HINT}.",
            "To stop instead of training without one: --require-gpu.",
        ]
        log.warning("\n%s", machine.boxed(box))
