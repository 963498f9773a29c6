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
    from goodreads.training import checkpoints, launch, training_log

    launch.honour_environment(flags)
    device = choose_device(run.require_gpu, flags.get("use_cpu", False))
    args, plan = launch.complete(run, flags, device.type)
    if rank := args.process_index:
        log.setLevel("ERROR")
    phases = training_log.Phases(started)
    phases.end("start")

    with nullcontext() if rank else launch.claimed(run):
        manifest, splits = launch.load_splits(run)
        phases.end("data")

        settings = checkpoints.fingerprint(run, args, plan, manifest)
        resumed = checkpoints.begin(run, settings) if run.resume or not rank else None
        base, train = resumed or run.model_name_or_path, splits["train"]
        tokenizer, model = load_for_training(base, train.label_names, run.max_length, run.seed, train.texts)
        phases.end("model")

        with args.main_process_first(local=True):  # the others find its files
            for name, split in splits.items():
                splits[name] = tokenize_split(split, tokenizer, run.max_length, run.data_dir / "tokens")
        phases.end("tokenize")

        keeper = checkpoints.Checkpoints(settings, flags["save_total_limit"])
        parts = {"model": model, "args": args, "processing_class": tokenizer, "plan": plan}
        parts |= {"train_dataset": splits.pop("train"), "eval_dataset": splits}
        trainer = launch.build_trainer(run, keeper, **parts)
        launch.announce(device, args, plan)
        keeper.train(trainer, resumed)
        phases.end("train")
        if rank == 0:
            files = save(run.output_dir, trainer.accelerator.unwrap_model(trainer.model), tokenizer)
            phases.end("save")
            record = training_log.training_record(run, trainer, settings, phases, files)
            write_json(run.results_dir / "training_log.json", record)
            log.info("wrote %s and %s", run.output_dir, run.results_dir / "training_log.json")
            last = {"model": str(run.output_dir), "steps": record["steps"], "seconds": phases.seconds}
            print(json.dumps(last | record["throughput"]))
            checkpoints.remove_all(run.checkpoints)


if __name__ == "__main__":
    run_script(main, "train.py")
