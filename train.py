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
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import run as run_script
from goodreads.common.files import write_json
from goodreads.common.progress import log
from goodreads.training.options import parse


def main() -> None:
    """Parse the command line, train, and save the model and the log.

    Raises:
        InputError: an option, the environment, the data, the model or a folder is not usable.
        CheckFailed: training diverged.
        Interrupted: a signal stopped the run after a checkpoint was saved.
    """
    started = time.perf_counter()
    run, flags = parse(__doc__, sys.argv[1:])
    # torch and transformers take seconds to import
    from goodreads.common.machine import choose_device
    from goodreads.model.checkpoint import load_for_training, save
    from goodreads.model.tokenized import tokenize_split
    from goodreads.training import callbacks, checkpoints, launch, training_log

    rank, processes = launch.processes()
    launch.quiet(rank)
    launch.honour_accelerate(flags)
    device = choose_device(run.require_gpu, flags.get("use_cpu", False))
    args, plan = launch.complete(run, flags, device.type, processes)
    phases = training_log.Phases(started)
    phases.end("start")

    with nullcontext() if rank else launch.claimed(run):
        resumed = checkpoints.begin(run, rank)
        manifest, splits = launch.load_splits(run)
        phases.end("data")

        settings = checkpoints.fingerprint(run, args, plan, manifest)
        if resumed:
            checkpoints.check_same_run(resumed, settings)
        base, train = resumed or run.model_name_or_path, splits["train"]
        tokenizer, model = load_for_training(base, train.label_names, run.max_length, run.seed, train.texts)
        phases.end("model")

        with args.main_process_first(local=True):  # the others find its files
            tokens = {
                name: tokenize_split(split, tokenizer, run.max_length, run.data_dir / "tokens")
                for name, split in splits.items()
            }
        phases.end("tokenize")

        stop = callbacks.StopOnSignal()
        keeper = checkpoints.Checkpoints(settings, flags["save_total_limit"])
        parts = {"model": model, "args": args, "processing_class": tokenizer, "plan": plan}
        parts |= {"train_dataset": tokens.pop("train"), "eval_dataset": tokens}
        trainer = launch.build_trainer(run, stop, keeper, **parts)
        launch.announce(device, args, plan)
        with keeper.guard():
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        phases.end("train")
        trainer.accelerator.end_training()
        stop.raise_interrupted(trainer.state)
        if rank == 0:
            files = save(run.output_dir, trainer.accelerator.unwrap_model(trainer.model), tokenizer)
            phases.end("save")
            record = training_log.training_record(run, trainer, settings, phases.seconds, resumed, files)
            write_json(run.results_dir / "training_log.json", record)
            log.info("wrote %s and %s", run.output_dir, run.results_dir / "training_log.json")
            last = {name: record[name] for name in ("steps", "seconds")}
            print(json.dumps({"model": str(run.output_dir), **last, **record["throughput"]}))
            checkpoints.remove_all(run.checkpoints)


if __name__ == "__main__":
    run_script(main, "train.py")
