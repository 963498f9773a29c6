"""Checkpoints of an interrupted run: which are this program's, which are whole, and which fit this run.

``complete.json`` in a checkpoint-N folder marks it as this program's: empty when saving begins, and when all
is written what the run must agree with (``run``) and each file's CRC-32 (``files``).
"""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from isal import isal_zlib
from transformers import TrainingArguments

from goodreads.common.errors import InputError
from goodreads.common.files import write_json
from goodreads.common.progress import log
from goodreads.model.batching import BatchPlan
from goodreads.training.options import RunArguments

COMPLETE = "complete.json"
# what may differ between an interrupted run and its resumption: paths, logging, and how processes talk
IRRELEVANT = (
    "output_dir report_to run_name logging_first_step disable_tqdm ddp_timeout ddp_bucket_cap_mb local_rank"
).split()

OWN = (
    "model_name_or_path max_length effective_batch_size validation_per_genre early_stopping_patience".split()
)


def fingerprint(
    run: RunArguments, arguments: TrainingArguments, plan: BatchPlan, manifest: dict[str, Any]
) -> dict[str, Any]:
    """What a checkpoint must agree with to be resumed, as JSON values: all but ``IRRELEVANT``."""
    values = {name: value for name, value in arguments.to_dict().items() if name not in IRRELEVANT}
    data = {f"{name}_content_sha256": split["content_sha256"] for name, split in manifest["splits"].items()}
    values |= {name: getattr(run, name) for name in OWN} | data
    values |= {f"batch_{name}": value for name, value in vars(plan).items()}
    return dict(json.loads(json.dumps(values, default=str)))


def named(folder: Path) -> list[Path]:
    """What has the name of a checkpoint in a folder, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step)


def of_this_program(folder: Path) -> list[Path]:
    """The checkpoints that this program began in a folder, oldest first; others are none of its business."""
    return [path for path in named(folder) if (path / COMPLETE).is_file()]


def step(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = isal_zlib.crc32(block, value)
    return value


def mark_complete(checkpoint: Path, run: dict[str, Any]) -> None:
    """Declare a checkpoint whole, with what the run must agree with."""
    files = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and path.name != COMPLETE]
    write_json(checkpoint / COMPLETE, {"run": run, "files": {path.name: _checksum(path) for path in files}})


def _read(checkpoint: Path) -> dict[str, Any]:
    """What ``mark_complete`` wrote; empty if it did not come to that or the file is damaged."""
    try:
        document = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return document if {"run", "files"} <= document.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def remove(checkpoint: Path) -> None:
    """Remove what this program wrote into a checkpoint, and the folder unless something else lies in it."""
    files = _read(checkpoint).get("files")
    for path in list(checkpoint.iterdir()):
        if files is None or path.name in files:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    with suppress(OSError):
        checkpoint.rmdir()


def remove_all(folder: Path) -> None:
    """Remove this program's checkpoints from a folder, saying so."""
    for path in of_this_program(folder):
        log.info("removing %s", path)
        remove(path)


def check_start(folder: Path, resume: bool, force: bool) -> None:
    """Before anything is done: refuse to lose an interrupted run, or to resume none.

    With ``force``, remove its checkpoints.

    Raises:
        InputError: there are checkpoints and neither option is given, or --resume and there are none, or a
            folder that this program did not make has the name of a checkpoint.
    """
    own = of_this_program(folder)
    whole = [path for path in own if _read(path)]
    if resume:
        if not whole:
            raise InputError(f"--resume: no complete checkpoint in {folder}; run without --resume")
        return
    if whole and not force:
        raise InputError(
            f"{whole[-1]} is of an interrupted run: --resume continues it, --force removes it and starts anew"
        )
    for path in named(folder):
        if path not in own:
            raise InputError(f"{path} was not made by train.py; move it away, or name another --output_dir")
    remove_all(folder)


def last(folder: Path, run: dict[str, Any]) -> Path:
    """The newest checkpoint that is whole; others are named and passed over.

    Args:
        folder: of the checkpoints.
        run: fingerprint of this run.

    Raises:
        InputError: there is none, or it belongs to a run with other settings.
    """
    for path in reversed(named(folder)):
        document = _read(path)
        damaged = [
            name for name, value in document.get("files", {}).items() if not _is_whole(path / name, value)
        ]
        if not document or damaged:
            log.warning(
                "%s is %s and passed over", path, f"damaged ({damaged[0]})" if damaged else "incomplete"
            )
            continue
        saved = document["run"]
        changed = [
            f"{name} was {saved.get(name)!r}, is {run.get(name)!r}"
            for name in {**run, **saved}
            if saved.get(name) != run.get(name)
        ]
        if changed:
            raise InputError(
                f"--resume: {path} is of another run: {'; '.join(changed)}; give the same options, or start "
                "anew with --force"
            )
        return path
    raise InputError(f"--resume: no complete checkpoint in {folder}; start anew with --force")


def _is_whole(path: Path, checksum: int) -> bool:
    try:
        return _checksum(path) == checksum
    except OSError:
        return False
