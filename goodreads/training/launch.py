"""Between the command line and the model: processes, environment variables, folders, data, announcement."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)

from goodreads.common import machine
from goodreads.common.errors import InputError
from goodreads.common.files import LOCK, check_writable, locked
from goodreads.common.progress import log
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.data.split_store import ShardedSplit, Split, carve, read_manifest, read_split, read_train
from goodreads.model.batching import BatchPlan
from goodreads.model.checkpoint import check_replaceable
from goodreads.model.tokenized import TokenizedReviews
from goodreads.training import callbacks, checkpoints
from goodreads.training.options import RunArguments
from goodreads.training.trainer import GenreTrainer

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # accelerate reads them all
NUMBERS = ("LOCAL_RANK", "RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", *SIZES)
OFF = ("", "0", "no", "false", "none", "off")
ON = ("1", "yes", "true", "on")
# variables of accelerate that would train in another way than train.py does and says
FOREIGN = re.compile(r"ACCELERATE_(USE_(?!CPU$)\w+|DYNAMO_BACKEND|TORCH_DEVICE|GRADIENT_ACCUMULATION_STEPS)")
LOGGED = (  # variables that change the figures or the speed
    "OMP_NUM_THREADS MKL_NUM_THREADS CUDA_VISIBLE_DEVICES NVIDIA_TF32_OVERRIDE CUBLAS_WORKSPACE_CONFIG "
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF ACCELERATE_MIXED_PRECISION "
    "ACCELERATE_USE_CPU HF_HUB_OFFLINE"
).split()


def processes() -> tuple[int, int]:
    """Rank and number of processes, as torchrun and accelerate announce them in the environment.

    Raises:
        InputError: the variables are not numbers, contradict each other or are incomplete.
    """
    numbers = {}
    for name in NUMBERS:
        if (text := os.environ.get(name)) is not None:
            if not re.fullmatch(r"-?\d+", text):
                raise InputError(f"{name}={text} in the environment is not a number; unset it")
            numbers[name] = int(text)
    if numbers.get("LOCAL_RANK", -1) < 0:
        for name in SIZES:
            if numbers.get(name, 1) > 1:
                raise InputError(
                    f"{name}={numbers[name]} in the environment, but no LOCAL_RANK: start several processes "
                    f"with torchrun --nproc-per-node {numbers[name]} train.py, or unset {name}"
                )
        return 0, 1
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise InputError(f"LOCAL_RANK is set, but not {name}: start with torchrun, or unset LOCAL_RANK")
    rank, count = numbers["RANK"], numbers["WORLD_SIZE"]
    if not 0 <= rank < count:
        raise InputError(f"RANK={rank} and WORLD_SIZE={count} in the environment contradict each other")
    return rank, count


def check_environment(flags: dict[str, Any]) -> dict[str, str]:
    """Honour what accelerate's variables say, and refuse what train.py cannot do.

    Args:
        flags: of ``goodreads.training.flags.parse``; number format and device are filled in where not given.

    Returns:
        The variables that change figures or speed, for the log.

    Raises:
        InputError: a variable asks for something else, or has an impossible value.
    """
    for name, value in os.environ.items():
        steps = "1" if name.endswith("_STEPS") else ""
        if FOREIGN.fullmatch(name) and value.lower() not in (*OFF, steps):
            raise InputError(f"{name}={value} in the environment is not supported; unset it")
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if not re.fullmatch(r"\s*[1-9]\d{0,4}(\s*,\s*[1-9]\d*)*\s*", threads):
        raise InputError(f"OMP_NUM_THREADS={threads} in the environment is no number of threads; unset it")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "fp16", "bf16"):
        raise InputError(f"ACCELERATE_MIXED_PRECISION={precision} in the environment: use no, fp16 or bf16")
    if precision != "no" and flags["bf16"] is None and flags["fp16"] is None:
        flags[precision] = True
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "no")
    if on_cpu.lower() not in (*ON, *OFF):
        raise InputError(f"ACCELERATE_USE_CPU={on_cpu} in the environment: use true or false")
    flags["use_cpu"] = flags["use_cpu"] or on_cpu.lower() in ON
    found = {name: os.environ[name] for name in LOGGED if name in os.environ}
    # the flags have it now; TrainingArguments would prefer the variable to --bf16 false
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    return found


def _check_places(run: RunArguments) -> None:
    """Fail now rather than after training if model, checkpoints or results cannot be written.

    Raises:
        InputError: a place cannot be written, would be replaced by another, or holds other things.
    """
    check_replaceable(run.output_dir)
    model = Path(os.path.realpath(run.output_dir))
    for option, folder in (("--data-dir", run.data_dir), ("--results-dir", run.results_dir)):
        if Path(os.path.realpath(folder)).is_relative_to(model):
            raise InputError(
                f"{option} {folder} lies in --output_dir {run.output_dir}, which is replaced as a whole"
            )
    check_writable(model if model.is_mount() else model.parent)
    check_writable(run.checkpoints)
    check_writable(run.results_dir)


@contextmanager
def claimed(run: RunArguments, rank: int) -> Iterator[None]:
    """Hold the run's folders, after a check that all of them can be written; only process 0 does so.

    Raises:
        InputError: see ``checkpoints.check_start``; or a folder cannot be written, is in use by another run,
            or holds other things.
    """
    if rank:
        yield
        return
    _check_places(run)
    folder = run.checkpoints
    with locked(folder, wait=False):
        try:
            checkpoints.check_start(folder, run.resume, run.force)
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                with suppress(OSError):
                    folder.rmdir()


def load_splits(run: RunArguments) -> tuple[dict[str, Any], dict[str, Split | ShardedSplit]]:
    """The manifest and the splits by name; the data is made first if there is none.

    Raises:
        InputError: the data cannot be made, is damaged, of another source, or too little for validation.
    """
    if not (run.data_dir / "manifest.json").exists():
        log.info("%s holds no data: making it from %s", run.data_dir, run.source)
        build_split(Parameters(source=run.source), run.data_dir)
    manifest, train = read_manifest(run.data_dir), read_train(run.data_dir)
    if run.source_given and manifest["parameters"]["source"] != run.source:
        raise InputError(
            f"--source {run.source}: {run.data_dir} was made from {manifest['parameters']['source']}; leave "
            "--source out, or name another --data-dir"
        )
    splits = {"train": train, "test": read_split(run.data_dir, "test")}
    if run.validation_per_genre:
        if isinstance(train, ShardedSplit):
            raise InputError("--validation-per-genre goes with a sampled train split, not with shards")
        splits["train"], splits["validation"] = carve(train, run.validation_per_genre)
    return manifest, splits


def build_trainer(
    run: RunArguments,
    arguments: TrainingArguments,
    plan: BatchPlan,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tokens: dict[str, TokenizedReviews],
    listeners: list[TrainerCallback],
) -> GenreTrainer:
    """The Trainer with its callbacks, ``listeners`` last."""
    # beside the results, since the checkpoints go when the run is done
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.results_dir / "tensorboard"))
    patience = 2 if run.early_stopping_patience is None else run.early_stopping_patience
    stops = [callbacks.StopOnValidation(patience)] if "validation" in tokens and patience else []
    trainer = GenreTrainer(
        model=model,
        args=arguments,
        train_dataset=tokens["train"],
        eval_dataset={name: tokens[name] for name in ("validation", "test") if name in tokens},
        processing_class=tokenizer,
        callbacks=[callbacks.LogEpochEnd(), *stops, *listeners],
        plan=plan,
    )
    if arguments.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(callbacks.PlainLog())
    return trainer


def announce(
    device: machine.Device,
    arguments: TrainingArguments,
    plan: BatchPlan,
    tokens: int,
    variables: dict[str, str],
) -> None:
    """Say what the run uses and why; without a GPU, say so in a box.

    Args:
        device, arguments, plan: of the run.
        tokens: of the training split.
        variables: of ``check_environment``.
    """
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32"
    automatic, reason = machine.choose_precision(device.type)
    log.info("device: %s, %s (%s)", device.type, device.name, device.reason)
    log.info("precision: %s (%s)", precision, reason if precision == automatic else "as asked")
    if variables:
        log.info("environment: %s", " ".join(f"{name}={value}" for name, value in variables.items()))
    log.info("%s", plan)
    log.info("data: %s tokens an epoch", f"{tokens:,}")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if count > plan.devices:
        again = f"torchrun --nproc-per-node {count} train.py {shlex.join(sys.argv[1:])}"
        log.warning("%d of %d GPUs are idle; use all with: %s", count - plan.devices, count, again)
    if not device.is_gpu:
        box = [
            "NO GPU: training runs on the CPU.",
            *(f"One was asked for: {asked}." for asked in [machine.gpu_asked_for()] if asked),
            f"Why: {device.reason}.",
            f"If there is one: {machine.CONTAINER_HINT}.",
            "To stop instead of training without one: --require-gpu.",
        ]
        log.warning("\n%s", machine.boxed(box))
