"""Score a fine-tuned model, from a folder or the Hub, on a test split.

    python evaluate_model.py                                  # model/ on data/, results named "local"
    python evaluate_model.py --model user/name                # a Hub repository, results named "hub"
    python evaluate_model.py --model user/name --revision v1  # one revision of it
    python evaluate_model.py --model user/name --split-from-hub      # on the split that the repository names
    python evaluate_model.py --model tfidf                    # the baseline, fitted on the train split

The test split is the one that data_loader.py wrote. A Hub model is fetched at one commit and checked by
hash; with a "local" result beside it the two are compared, and DIFFERENT ends with exit status 1. Labels are
matched by name, so a model with the same genres in another order is scored right.
Environment: HF_REPO and HF_REVISION stand for --model and --revision where those are not given; HF_TOKEN, or
HF_TOKEN_PATH for a file with it, holds the token of a private repository.
Writes eval_results_NAME.json, classification_report_NAME.txt, predictions_NAME.parquet and errors_NAME.md.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import Parser, run
from goodreads.common.errors import InputError
from goodreads.common.files import check_writable
from goodreads.common.progress import log
from goodreads.evaluation.label_map import parse_label_map

BASELINE = "tfidf"


def main() -> None:
    """Score, write the results files, print the tables and one JSON line.

    Raises:
        CheckFailed: the Hub copy is DIFFERENT from the local model, or the logits are not finite.
    """
    options = _options()
    log.info("evaluating %s", options.model)  # the imports that follow take seconds
    from goodreads.data.split_store import read_split, read_train
    from goodreads.evaluation import comparison, evaluator, results
    from goodreads.hub.model_source import find_model

    folder, name, data_dir, not_cut = options.results_dir, options.name, options.data_dir, None
    compared = comparison.COPY if name == "hub" and results.file_of(folder, "local").exists() else []
    if compared:  # whether the comparison can be made, before the work
        results.read_predictions(folder, results.read(folder, "local"))
    if not options.split_from_hub:
        split = read_split(data_dir, "test")
    with tempfile.TemporaryDirectory() as scratch:
        if options.model == BASELINE:
            logits, details, origin = evaluator.score_baseline(read_train(data_dir), split.texts)
            results.check_replaceable(folder, name, origin, options.force)
        else:
            model, origin = find_model(options.model, options.revision, options.cache_dir, Path(scratch))
            results.check_replaceable(folder, name, origin, options.force)
            if options.split_from_hub:
                data_dir = evaluator.published_split(model, data_dir, Path(scratch, "data"), options.source)
                split = read_split(data_dir, "test")
            logits, details, not_cut = evaluator.score_model(model, split, options.dtype, options.label_map)
        numbers = evaluator.numbers(data_dir, split, logits, not_cut)
    result = {"name": name, "model": origin, **details, **numbers}
    report = results.write(folder, result, split, logits)
    print(f"{results.table(result)}\n\n{report}")
    summary = results.summary(result) | ({"verdict": None} if name == "hub" else {})
    pairs = comparison.compare(folder, compared)
    for pair in pairs:
        print("\n" + comparison.write(folder, compared, pairs))
        summary["verdict"] = pair["verdict"]
    if name == "hub" and not pairs:
        log.info("%s holds no eval_results_local.json, so there is nothing to compare with", folder)
    print(json.dumps(summary))
    comparison.check_same(pairs)


def _options() -> argparse.Namespace:
    """The command line, completed from the environment and checked as far as it can be at once."""
    parser = Parser(__doc__, prog="evaluate_model.py")
    add = parser.add_argument
    model = os.environ.get("HF_REPO", "").strip() or "model"
    add("--model", default=model, help="model folder, Hub repository user/name, or tfidf")
    add("--revision", help="branch, tag or commit of the Hub repository; else HF_REVISION, else main")
    add("--name", help="name of the results; local for a folder, hub for a repository if not given")
    add("--force", action="store_true", help="replace the results of another model under the same name")
    add("--label-map", type=parse_label_map, help="LABEL_0=children,... or a .json file of such pairs")
    add("--split-from-hub", action="store_true", help="score on the split that the repository names")
    add("--source", metavar="URL_OR_FOLDER", help="the same, rebuilt from these review files")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the split and its manifest")
    add("--results-dir", type=Path, default=Path("results"), help="folder for the results files")
    cache = Path(".cache") if Path(".cache").is_mount() else None  # by a container's user
    add("--cache-dir", type=Path, default=cache, help="keep a fetched model here; .cache where it is a mount")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="number format of the model")
    options = parser.parse_args()
    options.split_from_hub |= options.source is not None
    if options.split_from_hub and options.model == "model":
        raise InputError("HF_REPO is not set; name the repository: docker run -e HF_REPO=user/name ...")
    kind = BASELINE if options.model == BASELINE else "local" if Path(options.model).is_dir() else "hub"
    options.name = options.name or kind
    of_models = (options.revision, options.label_map, options.split_from_hub, options.dtype != "float32")
    if kind == BASELINE and any(of_models):
        raise InputError(f"--model {BASELINE} takes no --revision, --label-map, --split-from-hub or --dtype")
    if kind == "hub":
        options.revision = options.revision or os.environ.get("HF_REVISION", "").strip() or None
    if not re.fullmatch(r"[\w.-]{1,80}", options.name):
        raise InputError(f"--name {options.name!r}: at most 80 letters, digits, '.', '_' and '-'")
    check_writable(options.results_dir)
    return options


if __name__ == "__main__":
    run(main, "evaluate_model.py")
