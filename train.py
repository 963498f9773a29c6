"""Fine-tune a transformer to tell the genre of a review, with the Hugging Face Trainer.

    python train.py                                     # distilbert-base-cased on data/, made if missing
    python train.py --recipe report                     # the reference report's settings
    python train.py --recipe sample                     # generated reviews, a small model from scratch
    python train.py --learning_rate 5e-5 --report_to tensorboard     # any TrainingArguments flag
    torchrun --nproc-per-node 4 train.py                # four GPUs, the same effective batch
    python train.py --resume                            # go on after an interruption

Options come from the recipe, then from the command line. The batch size that is asked for is the effective
one on any number of devices. The test split is evaluated after each epoch for the curve and never selects
the model: the last epoch is saved, or with --validation-per-genre the best one on reviews kept from
training. Writes the model folder and training_log.json.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from goodreads.common.cli import Parser, positive_int, run
from goodreads.common.errors import InputError, Interrupted
from goodreads.common.progress import log
from goodreads.data.review_files import UCSD

# what decides the weights: a checkpoint is resumed only where all of it agrees
DECISIVE = (
    "num_train_epochs max_steps learning_rate lr_scheduler_type warmup_steps weight_decay optim adam_beta1 "
    "adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor seed bf16 fp16"
).split()


def main() -> None:
    """Parse the command line and run."""
    started = time.perf_counter()
    from goodreads.training.options import parse, print_training_help

    parser = _parser()
    if "--help-all" in sys.argv:
        print_training_help(parser.prog)
    else:
        options, training = parse(parser, sys.argv[1:])
        train(options, training, started)


def train(options: argparse.Namespace, training: dict[str, Any], started: float) -> None:
    """Load the data, tokenize, fine-tune, save the model and the log.

    Raises:
        InputError: an option, the data, the model or a folder is not usable.
        Interrupted: a signal stopped the run after a checkpoint was saved.
    """
    import transformers

    from goodreads.common import machine as runtime
    from goodreads.model.checkpoint import check_replaceable, load_for_training, save
    from goodreads.model.tokenized import tokenize_split
    from goodreads.training.callbacks import discard_checkpoints, last_checkpoint
    from goodreads.training.options import complete
    from goodreads.training.training_log import Phases, training_record

    transformers.logging.set_verbosity_error()  # that the classifier's weights are new is no news here
    transformers.logging.disable_progress_bar()
    rank = int(os.environ.get("RANK", 0))
    if rank:
        log.setLevel("ERROR")  # one process speaks for all
    phases = Phases(started)
    device = runtime.choose_device(options.require_gpu, training["use_cpu"])
    check_replaceable(options.output_dir)
    arguments, plan = complete(options, training, device.type, int(os.environ.get("WORLD_SIZE", 1)))
    phases.end("start")

    with arguments.main_process_first(local=False):
        manifest, splits = load_splits(options)
    phases.end("data")

    checkpoints = Path(arguments.output_dir)
    fingerprint = run_fingerprint(options, arguments, manifest)
    resume_from = last_checkpoint(checkpoints, fingerprint) if options.resume else None
    if rank == 0 and not options.resume:
        discard_checkpoints(checkpoints)
    train = splits["train"]
    tokenizer, model = load_for_training(
        resume_from or options.model_name_or_path,
        train.label_names,
        options.max_length,
        options.seed,
        train.texts,
    )
    phases.end("model")

    with arguments.main_process_first(local=False):
        encoded = {
            name: tokenize_split(split, tokenizer, options.max_length, options.data_dir / "tokens")
            for name, split in splits.items()
        }
    phases.end("tokenize")

    trainer, stop = build_trainer(options, arguments, plan, model, tokenizer, encoded, fingerprint)
    announce(device, arguments, plan, trainer)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    phases.end("train")
    trainer.accelerator.end_training()
    if stop.received and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(stop.received, f"checkpoint-{trainer.state.global_step} saved; go on with --resume")
    if rank:
        return

    files = save(options.output_dir, trainer.accelerator.unwrap_model(trainer.model), tokenizer)
    phases.end("save")
    record = training_record(
        trainer, plan, fingerprint, phases.seconds, resume_from.name if resume_from else None
    )
    finish(options, record, files)
    discard_checkpoints(checkpoints)


def load_splits(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the splits by name; the data is made first if there is none.

    Raises:
        InputError: the data cannot be made, is damaged, or is too little for a validation split.
    """
    from goodreads.data.sampling import Parameters
    from goodreads.data.split_builder import build_split
    from goodreads.data.split_store import ShardedSplit, carve, read_manifest, read_split, read_train

    if not (options.data_dir / "manifest.json").exists():
        log.info("%s holds no data: making it from %s", options.data_dir, options.source)
        build_split(Parameters(source=options.source), options.data_dir)
    train = read_train(options.data_dir)
    splits = {"train": train, "test": read_split(options.data_dir, "test")}
    if options.validation_per_genre:
        if isinstance(train, ShardedSplit):
            raise InputError("--validation-per-genre goes with a sampled train split, not with shards")
        splits["train"], splits["validation"] = carve(train, options.validation_per_genre)
    return read_manifest(options.data_dir), splits


def run_fingerprint(options: argparse.Namespace, arguments: Any, manifest: dict[str, Any]) -> dict[str, Any]:
    """What decides the weights of this run, as JSON values."""
    values = arguments.to_dict()
    return {
        "train_content_sha256": manifest["splits"]["train"]["content_sha256"],
        "model_name_or_path": options.model_name_or_path,
        "max_length": options.max_length,
        "effective_batch_size": options.effective_batch_size,
        "validation_per_genre": options.validation_per_genre,
        **{name: values[name] for name in DECISIVE},
    }


def build_trainer(
    options: argparse.Namespace,
    arguments: Any,
    plan: Any,
    model: Any,
    tokenizer: Any,
    encoded: dict[str, Any],
    fingerprint: dict[str, Any],
) -> tuple[Any, Any]:
    """The Trainer with its callbacks, and the one of them that knows whether a signal came.

    Raises:
        InputError: a logger named in --report_to is not installed.
    """
    from transformers import PrinterCallback

    from goodreads.training import callbacks
    from goodreads.training.trainer import GenreTrainer

    # beside the results, since the checkpoint folder goes when the run is done
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(options.results_dir / "tensorboard"))
    stop = callbacks.StopOnSignal()
    listeners: list[Any] = [callbacks.CompleteCheckpoint(fingerprint), callbacks.LogEpochEnd(), stop]
    if "validation" in encoded and options.early_stopping_patience:
        listeners.append(callbacks.StopOnValidation(options.early_stopping_patience))
    try:
        trainer = GenreTrainer(
            model=model,
            args=arguments,
            train_dataset=encoded["train"],
            eval_dataset={name: encoded[name] for name in ("validation", "test") if name in encoded},
            processing_class=tokenizer,
            callbacks=listeners,
            plan=plan,
        )
    except (RuntimeError, ImportError) as error:
        if not arguments.report_to:
            raise
        raise InputError(f"--report_to {' '.join(arguments.report_to)}: {error}") from error
    if arguments.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(callbacks.PlainLog())
    return trainer, stop


def announce(device: Any, arguments: Any, plan: Any, trainer: Any) -> None:
    """Say what the run uses and why; without a GPU, say so in a box."""
    import torch

    from goodreads.common import machine

    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32"
    automatic, reason = machine.choose_precision(device.type)
    log.info("device: %s, %s (%s)", device.type, device.name, device.reason)
    log.info("precision: %s (%s)", precision, reason if precision == automatic else "as asked")
    log.info("%s", plan)
    log.info("data: %s tokens an epoch", f"{trainer.train_dataset.lengths.sum():,}")
    if device.type == "cuda" and torch.cuda.device_count() > plan.devices:
        log.warning(
            "%d of %d GPUs are idle; use all with: torchrun --nproc-per-node %d train.py",
            torch.cuda.device_count() - plan.devices,
            torch.cuda.device_count(),
            torch.cuda.device_count(),
        )
    if not device.is_gpu:
        box = [
            "NO GPU: training runs on the CPU.",
            *(f"One was asked for: {asked}." for asked in [machine.gpu_asked_for()] if asked),
            f"Why: {device.reason}.",
            f"If there is one: {machine.CONTAINER_HINT}.",
            "To stop instead of training without one: --require-gpu.",
        ]
        log.warning("\n%s", machine.boxed(box))


def finish(options: argparse.Namespace, record: dict[str, Any], files: dict[str, str]) -> None:
    """Write the training log; print the epochs and one JSON line.

    Raises:
        InputError: the results folder cannot be written to.
    """
    from goodreads.common.files import sha256_file, write_json
    from goodreads.training.training_log import epoch_table

    record["settings"]["recipe"] = options.recipe
    record["model"] = {"folder": str(options.output_dir), "files_sha256": files}
    record["data"]["manifest_sha256"] = sha256_file(options.data_dir / "manifest.json")
    write_json(options.results_dir / "training_log.json", record)
    log.info("wrote %s and %s", options.output_dir, options.results_dir / "training_log.json")
    print(epoch_table(record))
    speed = {name: round(value, 1) for name, value in record["throughput"].items()}
    seconds = {name: round(value, 2) for name, value in record["seconds"].items()}
    print(
        json.dumps({"model": str(options.output_dir), "steps": record["steps"], **speed, "seconds": seconds})
    )


def _parser() -> Parser:
    parser = Parser(
        __doc__,
        prog="train.py",
        epilog="Every TrainingArguments flag is accepted too, --learning_rate or --num_train_epochs for "
        "example; --help-all lists them. What is not given comes from the recipe.",
    )
    add = parser.add_argument_group("run").add_argument
    add("--recipe", default="default", help="YAML file of option values, or the name of one in recipes/")
    add("--seed", type=int, default=42, help="of the new weights, the batch order and dropout")
    add("--resume", action="store_true", help="continue from the last complete checkpoint")
    add("--require-gpu", action="store_true", help="stop, rather than train on the CPU, if there is no GPU")
    add("--help-all", action="store_true", help="list the TrainingArguments flags and exit")
    add = parser.add_argument_group("data").add_argument
    add("--data-dir", type=Path, default=Path("data"), help="folder of the split; made if it has none")
    add("--source", default=UCSD, help="what to make missing data from, as in data_loader.py")
    add("--max_length", type=positive_int, default=512, help="tokens kept of a review")
    add(
        "--validation-per-genre",
        type=int,
        default=0,
        metavar="N",
        help="train reviews that select the epoch; 0: none",
    )
    add(
        "--early_stopping_patience",
        type=int,
        default=2,
        metavar="N",
        help="epochs without a better validation loss before stopping; 0: never stop early",
    )
    add = parser.add_argument_group("model").add_argument
    add(
        "--model_name_or_path",
        default="distilbert-base-cased",
        help="model id, folder, or 'scratch' for a small new one",
    )
    add(
        "--effective_batch_size",
        type=positive_int,
        default=16,
        help="reviews per optimizer step, over all devices",
    )
    add = parser.add_argument_group("output").add_argument
    add(
        "--output_dir",
        type=Path,
        default=Path("model"),
        help="model folder; its checkpoints go beside it until the run is done",
    )
    add("--results-dir", type=Path, default=Path("results"), help="folder for training_log.json")
    return parser


if __name__ == "__main__":
    run(main, "train.py")
