"""Fine-tune a transformer to tell the genre of a review, with the Hugging Face Trainer.

    python train.py                                     # distilbert-base-cased on data/, made if missing
    python train.py --recipe report                     # the reference report's settings
    python train.py --recipe sample                     # generated reviews, a small model from scratch
    python train.py --learning_rate 5e-5 --report_to tensorboard     # flags of TrainingArguments
    torchrun --nproc-per-node 4 train.py                # four GPUs, the same effective batch
    python train.py --resume                            # go on after an interruption

Options come from the recipe, then from the command line; --max-length and --max_length are the same. The
batch size that is asked for is the effective one on any number of devices. The test split is evaluated after
each epoch for the curve and never selects the model: the last epoch is saved, or with --validation-per-genre
the best one on reviews kept from training. Writes the model folder and training_log.json.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import run as run_script
from goodreads.common.files import sha256_file, write_json
from goodreads.common.progress import log
from goodreads.training.options import RunArguments, answer_help


def main() -> None:
    """Parse the command line, train, and save the model and the log.

    Raises:
        InputError: an option, the environment, the data, the model or a folder is not usable.
        CheckFailed: training diverged.
        Interrupted: a signal stopped the run after a checkpoint was saved.
    """
    started = time.perf_counter()
    answer_help(__doc__, sys.argv[1:])
    # torch and transformers take seconds to import
    import transformers

    from goodreads.common.machine import choose_device
    from goodreads.model.checkpoint import load_for_training, save
    from goodreads.model.tokenized import tokenize_split
    from goodreads.training import callbacks, checkpoints, flags, launch, training_log

    transformers.logging.set_verbosity_error()  # no warning that the classifier is new: it is meant to be
    transformers.logging.disable_progress_bar()
    run, chosen = flags.parse(__doc__, sys.argv[1:])
    rank, processes = launch.processes()
    if rank:
        log.setLevel("ERROR")  # only process 0 logs
    variables = launch.check_environment(chosen)
    device = choose_device(run.require_gpu, chosen["use_cpu"])
    arguments, plan = flags.complete(run, chosen, device.type, processes)
    phases = training_log.Phases(started)
    phases.end("start")

    with launch.claimed(run, rank):
        manifest, splits = launch.load_splits(run)
        phases.end("data")

        settings = checkpoints.fingerprint(run, arguments, plan, manifest)
        resumed = checkpoints.last(run.checkpoints, settings) if run.resume else None
        base, train = resumed or run.model_name_or_path, splits["train"]
        tokenizer, model = load_for_training(base, train.label_names, run.max_length, run.seed, train.texts)
        phases.end("model")

        with arguments.main_process_first(local=True):  # the others find its files
            tokens = {
                name: tokenize_split(split, tokenizer, run.max_length, run.data_dir / "tokens")
                for name, split in splits.items()
            }
        phases.end("tokenize")

        stop = callbacks.StopOnSignal()
        keeper = callbacks.Checkpoints(settings, chosen["save_total_limit"])
        trainer = launch.build_trainer(run, arguments, plan, model, tokenizer, tokens, [stop, keeper])
        launch.announce(device, arguments, plan, int(tokens["train"].lengths.sum()), variables)
        with keeper.guard(run.checkpoints):
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        phases.end("train")
        trainer.accelerator.end_training()
        stop.raise_interrupted(trainer.state)
        if rank == 0:
            files = save(run.output_dir, trainer.accelerator.unwrap_model(trainer.model), tokenizer)
            phases.end("save")
            record = training_log.training_record(trainer, settings, phases.seconds, resumed, variables)
            print(training_log.epoch_table(record))
            finish(run, record, files)
            checkpoints.remove_all(run.checkpoints)


def finish(run: RunArguments, record: dict[str, Any], files: dict[str, str]) -> None:
    """Write the training log and print one JSON line.

    Args:
        run: the options.
        record: of ``training_log.training_record``.
        files: SHA-256 of the model's files.

    Raises:
        InputError: the results folder cannot be written to.
    """
    record["settings"]["recipe"] = run.recipe
    record["model"] = {"folder": str(run.output_dir), "files_sha256": files}
    record["data"]["manifest_sha256"] = sha256_file(run.data_dir / "manifest.json")
    write_json(run.results_dir / "training_log.json", record)
    log.info("wrote %s and %s", run.output_dir, run.results_dir / "training_log.json")
    speed = {name: round(value, 1) for name, value in record["throughput"].items()}
    seconds = {name: round(value, 2) for name, value in record["seconds"].items()}
    print(json.dumps({"model": str(run.output_dir), "steps": record["steps"], **speed, "seconds": seconds}))


if __name__ == "__main__":
    run_script(main, "train.py")
