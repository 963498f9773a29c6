"""Every picture that a results folder has the files for."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_files, locked, read_json
from goodreads.common.progress import log
from goodreads.evaluation import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_all(
    results_dir: Path,
    evaluations: dict[str, dict[str, Any]],
    compared: Sequence[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
    formats: Sequence[str],
) -> list[str]:
    """Draw them; the names of the files, in drawing order."""
    made: dict[str, Figure] = {}
    path = results_dir / "training_log.json"
    if path.exists():
        record = read_json(path, f"python train.py --results-dir {shlex.quote(str(results_dir))}")
        try:
            made["training_loss"] = figures.training_curve(record, _kind(evaluations))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{path} is not a log of train.py ({type(error).__name__}: {error})") from error
    else:
        log.warning("%s is missing, so training_loss is not drawn; train.py writes it", path)
    copies = [evaluations[name] for name in ("local", "hub") if name in evaluations]
    if len(copies) == 2 and copies[0]["labels"] != copies[1]["labels"]:
        copies = []
    for name, result in evaluations.items():
        made[f"confusion_matrix_{name}"] = figures.confusion(result)
        made[f"per_class_metrics_{name}"] = figures.per_genre(copies if result in copies else [result])
        made[f"overall_metrics_{name}"] = figures.overall([result])
        if "calibration" in result:
            made[f"reliability_{name}"] = figures.reliability(result)
    if pairs:
        names = "_".join(result["name"] for result in compared)
        made[f"comparison_{names}"] = figures.overall(compared, pairs)
    files = [f"{stem}.{kind}" for stem in made for kind in formats]
    with locked(results_dir), atomic_files(results_dir) as folder:
        for name in files:
            stem, _, kind = name.rpartition(".")
            made[stem].savefig(folder / name, format=kind, dpi=300)
    for figure in made.values():
        plt.close(figure)
    log.info("drew %d pictures into %s", len(files), results_dir)
    return files


def _kind(evaluations: dict[str, dict[str, Any]]) -> str:
    """What kind of reviews the results folder is about."""
    sources = {result["data"]["source"] for result in evaluations.values()}
    return "generated reviews" if sources == {"sample"} else "reviews"
