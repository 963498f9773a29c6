"""Checkpoints of an interrupted run: which are this program's, which are whole, and which fit this run.

``complete.json`` in a checkpoint-N folder marks it as this program's: empty when saving begins, and when all
is written what the run must agree with (``run``) and each file's size (``files``).
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Args

from goodreads.common.errors import Ended, InputError
from goodreads.common.files import read_json, write_json
from goodreads.common.progress import log
from goodreads.model.batching import BatchPlan
from goodreads.training.options import RunArguments

COMPLETE = "complete.json"
# what may differ between an interrupted run and its resumption: paths, logging, and how processes talk
IRRELEVANT = "output_dir report_to run_name logging_first_step ddp_timeout local_rank".split()
OWN = (
    "model_name_or_path max_length effective_batch_size validation_per_genre early_stopping_patience".split()
)


def fingerprint(run: RunArguments, args: Args, plan: BatchPlan, manifest: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint must agree with to be resumed, as JSON values: all but ``IRRELEVANT``."""
    values = {name: value for name, value in args.to_dict().items() if name not in IRRELEVANT}
    values |= {name: getattr(run, name) for name in OWN}
    values |= {
        f"{name}_content_sha256": split["content_sha256"] for name, split in manifest["splits"].items()
    }
    values |= {f"batch_{name}": value for name, value in vars(plan).items()}
    return dict(json.loads(json.dumps(values, default=str)))


def step(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def named(folder: Path) -> list[Path]:
    """What has the name of a checkpoint in a folder, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step)


def _read(checkpoint: Path) -> dict[str, Any]:
    """The content of complete.json; empty if saving did not come to an end."""
    with suppress(InputError):
        return read_json(checkpoint / COMPLETE, "train.py")
    return {}


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = [path for path in checkpoint.iterdir() if path.is_file() and path.name != COMPLETE]
    return {path.name: path.stat().st_size for path in files}


def remove(checkpoint: Path) -> None:
    """Remove what this program wrote into a checkpoint, and the folder unless something else lies in it."""
    for name in _read(checkpoint).get("files", _sizes(checkpoint)):
        (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / COMPLETE).unlink()
    with suppress(OSError):
        checkpoint.rmdir()


def remove_all(folder: Path, newest: int = 0, but: str = "") -> None:
    """Remove this program's checkpoints from a folder, except the ``newest`` and the one named ``but``."""
    own = [path for path in named(folder) if (path / COMPLETE).is_file()]
    for path in own[::-1][newest:]:
        if path.name != but:
            log.info("removing %s", path)
            remove(path)


def begin(run: RunArguments, rank: int) -> Path | None:
    """Before a run: with --resume the newest whole checkpoint; without it there are none afterwards.

    Process 0 alone (``rank``) judges and changes the folder.

    Raises:
        InputError: there is no whole one with --resume, any without --resume and --force, or something else
            has the name of a checkpoint.
    """
    folder, found = run.checkpoints, named(run.checkpoints)
    if rank and not run.resume:
        return None
    for path in found:
        if not (path / COMPLETE).is_file():
            raise InputError(f"{path} was not made by train.py; move it away, or name another --output_dir")
    if not run.resume:
        if found and not run.force:
            raise InputError(
                f"{found[-1]} is of an interrupted run: --resume continues it, --force removes it"
            )
        remove_all(folder)
        return None
    for path in reversed(found):
        if _read(path).get("files", {"": 0}).items() <= _sizes(path).items():
            return path
        log.warning("%s is incomplete or damaged and passed over", path)
    raise InputError(f"--resume: no complete checkpoint in {folder}; start anew with --force")


def check_same_run(checkpoint: Path, run: dict[str, Any]) -> None:
    """Raise InputError unless a checkpoint is of a run with this fingerprint."""
    saved = _read(checkpoint)["run"]
    changed = [name for name in {**run, **saved} if saved.get(name) != run.get(name)]
    if changed:
        said = "; ".join(f"{name} was {saved.get(name)!r}, is {run.get(name)!r}" for name in changed)
        raise InputError(
            f"--resume: {checkpoint} is of another run: {said}; give the same options, or --force"
        )


class Checkpoints(TrainerCallback):
    """Marks each checkpoint when it is begun and when it is whole, and removes older ones of this run.

    To be added last: it looks at what the other callbacks decided.

    Args:
        run: fingerprint of the run.
        limit: checkpoints to keep; the best one is kept beside them.
    """

    def __init__(self, run: dict[str, Any], limit: int) -> None:
        self.run, self.limit = run, limit
        self.saving: Path | None = None  # the checkpoint that is being written

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint that the Trainer is going to write."""
        if control.should_save:
            self.saving = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            if args.should_save:
                self.saving.mkdir(parents=True, exist_ok=True)
                (self.saving / COMPLETE).write_bytes(b"")

    on_epoch_end = on_step_end

    def on_save(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Declare it whole, once every process has written its part."""
        if args.world_size > 1:
            torch.distributed.barrier()
        if args.should_save and self.saving:
            write_json(self.saving / COMPLETE, {"run": self.run, "files": _sizes(self.saving)})
            remove_all(self.saving.parent, self.limit, Path(state.best_model_checkpoint or "").name)
        self.saving = None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Raise InputError, saying what to do, if training fails because a checkpoint cannot be written."""
        try:
            yield
        except Exception as error:
            if self.saving is None or isinstance(error, Ended):
                raise
            hint = "free space on the disk, then continue from the checkpoint before it with --resume"
            raise InputError(f"cannot write {self.saving}: {error}; {hint}") from error
