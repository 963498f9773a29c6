"""Checkpoints of a run: when a signal saves one, which are this program's, which are whole and fit the run.

``complete.json`` in a checkpoint-N folder marks it as this program's: empty when saving begins, and when all
is written what the run must agree with (``run``) and each file's size (``files``).
"""

import json
import re
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Args

from goodreads.common.errors import Ended, InputError, Interrupted
from goodreads.common.files import read_json, write_json
from goodreads.common.progress import log
from goodreads.model.batching import BatchPlan
from goodreads.training.options import RunArguments

COMPLETE = "complete.json"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# what may differ between an interrupted run and its resumption: paths, logging, and how processes talk
IRRELEVANT = "output_dir report_to run_name logging_first_step ddp_timeout local_rank".split()
OWN = "model_name_or_path max_length effective_batch_size validation_per_genre".split()


def fingerprint(run: RunArguments, args: Args, plan: BatchPlan, manifest: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint must agree with to be resumed, as JSON values: all but ``IRRELEVANT``."""
    values = {name: value for name, value in args.to_dict().items() if name not in IRRELEVANT}
    values |= {name: getattr(run, name) for name in OWN}
    values |= {f"{name}_content_sha256": it["content_sha256"] for name, it in manifest["splits"].items()}
    values |= {f"batch_{name}": value for name, value in vars(plan).items()}
    return dict(json.loads(json.dumps(values, default=str)))


def named(folder: Path) -> list[Path]:
    """What has the name of a checkpoint in a folder, newest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def _read(checkpoint: Path) -> dict[str, Any]:
    """The content of complete.json; empty if saving did not come to an end."""
    with suppress(InputError):
        return read_json(checkpoint / COMPLETE, "train.py")
    return {}


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = [path for path in checkpoint.iterdir() if path.is_file() and path.name != COMPLETE]
    return {path.name: path.stat().st_size for path in files}


def remove_all(folder: Path, newest: int = 0, but: str = "") -> None:
    """Remove this program's checkpoints from a folder, except the ``newest`` and the one named ``but``.

    What else lies in a checkpoint stays, and then the folder does too.
    """
    own = [path for path in named(folder) if (path / COMPLETE).is_file()]
    for path in [path for path in own[newest:] if path.name != but]:
        log.info("removing %s", path)
        for name in [*_read(path).get("files", _sizes(path)), COMPLETE]:
            (path / name).unlink(missing_ok=True)
        with suppress(OSError):
            path.rmdir()


def begin(run: RunArguments, settings: dict[str, Any]) -> Path | None:
    """Before a run: with --resume the newest whole checkpoint; without it there are none afterwards.

    Args:
        run: the options.
        settings: the fingerprint, with which the checkpoint must agree.

    Raises:
        InputError: there is no whole checkpoint with --resume, or it is of another run; there is any without
            --resume and --force; or something else has the name of one.
    """
    folder, found = run.checkpoints, named(run.checkpoints)
    if strangers := [path for path in found if not (path / COMPLETE).is_file()]:
        raise InputError(f"{strangers[0]} was not made by train.py; move it, or name another --output_dir")
    if not run.resume:
        if found and not run.force:
            raise InputError(f"{found[0]} is of an interrupted run; --resume continues, --force removes it")
        remove_all(folder)
        return None
    for path in found:
        saved = _read(path)
        if saved.get("files", {"": 0}).items() <= _sizes(path).items():
            was = saved["run"]
            changed = [name for name in {**settings, **was} if was.get(name) != settings.get(name)]
            said = "; ".join(f"{name} was {was.get(name)!r}, is {settings.get(name)!r}" for name in changed)
            if said:
                raise InputError(f"--resume: {path} is of another run ({said}); give its options, or --force")
            return path
        log.warning("%s is incomplete or damaged and passed over", path)
    raise InputError(f"--resume: no complete checkpoint in {folder}; start anew with --force")


class Checkpoints(TrainerCallback):
    """Saves one when a signal comes, marks each when it is begun and when it is whole, and removes old ones.

    SIGINT and SIGTERM: finish the step, save, stop; a second one kills at once. At the last step of an epoch
    the checkpoint is saved again after the epoch's evaluation, with its record. Several processes stop after
    the same step: they agree over a CPU (gloo) group after each, so that the GPU is not waited for.

    To be added last: it looks at what the other callbacks decided.

    Args:
        run: fingerprint of the run.
        limit: checkpoints to keep; the best one is kept beside them.
    """

    def __init__(self, run: dict[str, Any], limit: int) -> None:
        self.run, self.limit = run, limit
        self.saving: Path | None = None  # the checkpoint that is being written
        self.received = self._own = 0  # the signal of any process as of the last step; of this one
        self._group: Any = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the signals over."""
        if args.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._own = number
        log.warning("signal %d: saving a checkpoint after this step; again to stop at once", number)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop once a signal has come."""
        number = torch.tensor(self._own)
        if self._group is not None:
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self._group)
        self.received = int(number)
        if self.received:
            control.should_save = control.should_training_stop = True
        self._mark(args, state, control)

    def on_epoch_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a stop within the epoch, nothing more; at its regular end, save once more, evaluated."""
        if self.received:
            ended = float(state.epoch or 0).is_integer()
            control.should_save = ended
            control.should_evaluate &= ended
            control.should_log &= ended
        self._mark(args, state, control)

    def _mark(self, args: Args, state: TrainerState, control: TrainerControl) -> None:
        """Mark the checkpoint that the Trainer is going to write."""
        if control.should_save:
            self.saving = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            if args.should_save:
                write_json(self.saving / COMPLETE, {})

    def on_save(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Declare it whole, once every process has written its part."""
        if args.world_size > 1:
            torch.distributed.barrier()
        if args.should_save and self.saving:
            write_json(self.saving / COMPLETE, {"run": self.run, "files": _sizes(self.saving)})
            remove_all(self.saving.parent, self.limit, Path(state.best_model_checkpoint or "").name)
        self.saving = None

    def train(self, trainer: Trainer, resumed: Path | None) -> None:
        """Train to the end.

        Raises:
            InputError: a checkpoint cannot be written.
            Interrupted: a signal stopped the run before its end.
        """
        try:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        except Exception as error:
            if self.saving is None or isinstance(error, Ended):
                raise
            raise InputError(f"cannot write {self.saving}: {error}; free space, then --resume") from error
        trainer.accelerator.end_training()
        state = trainer.state
        if self.received and state.global_step < state.max_steps:
            raise Interrupted(self.received, f"checkpoint-{state.global_step} is saved; go on with --resume")
