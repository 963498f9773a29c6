"""Draw the results, and compare evaluations of the same test split.

    python plot_results.py                               # everything that RESULTS_DIR has the files for
    python plot_results.py --format png,pdf              # for a report
    python plot_results.py --compare tfidf,local         # any two or more evaluations, by name
    python plot_results.py --no-plots                    # the comparison alone

Reads only results files. Draws training_loss, and for each evaluation confusion_matrix_NAME,
per_class_metrics_NAME, overall_metrics_NAME and reliability_NAME. Compares local and hub if both are there,
or those that --compare names: the table on stdout, comparison_A_B.json, .md and a picture; of local and hub
also comparison.json and comparison.md. Where copies of one model are DIFFERENT (local and hub, or any with
--expect-same) it ends with exit status 1.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import Parser, run
from goodreads.common.errors import CheckFailed, InputError

FORMATS = ("png", "pdf", "svg")
COPY = ["local", "hub"]


def main() -> None:
    """Draw, compare, print the table and one JSON line.

    Raises:
        CheckFailed: evaluations that should be of one model are DIFFERENT.
    """
    options = _options()
    from goodreads.evaluation import comparison, results

    evaluations = results.read_all(options.results_dir)
    names = options.compare or [name for name in COPY if name in evaluations]
    if missing := [name for name in names if name not in evaluations]:
        command = results.evaluate_command(options.results_dir, missing[0])
        raise InputError(
            f"--compare: {options.results_dir} has no eval_results_{missing[0]}.json; make it with: {command}"
        )
    pairs = comparison.compare_all(options.results_dir, names, options.seed) if len(names) > 1 else []
    strict = options.expect_same or names == COPY
    for pair in pairs:
        if not strict and not (pair["same"]["review_ids"] and pair["same"]["labels"]):
            raise InputError(f"--compare: {' and '.join(pair['names'])} are not of the same reviews")
    document: dict[str, object] = {"drawn": []}
    if pairs:
        print(comparison.write(options.results_dir, pairs))
        document["verdict" if len(pairs) == 1 else "verdicts"] = (
            pairs[0]["verdict"] if len(pairs) == 1 else {" ".join(p["names"]): p["verdict"] for p in pairs}
        )
    if not options.no_plots:
        from goodreads.evaluation.drawing import draw_all

        compared = [evaluations[name] for name in names]
        document["drawn"] = draw_all(options.results_dir, evaluations, compared, pairs, options.format)
    print(json.dumps(document))
    if strict and (different := [pair for pair in pairs if pair["verdict"] == "DIFFERENT"]):
        raise CheckFailed(f"{' and '.join(different[0]['names'])} are DIFFERENT: {different[0]['reason']}")


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="plot_results.py")
    add = parser.add_argument
    add("--results-dir", type=Path, default=Path("results"), help="folder of the results files and pictures")
    add("--compare", metavar="A,B[,C...]", help="names of the evaluations to compare; local,hub if not given")
    add("--expect-same", action="store_true", help="exit status 1 if any of them are DIFFERENT")
    add("--format", default="png", metavar="png,pdf,svg", help="of the pictures, one or more")
    add("--no-plots", action="store_true", help="compare only; needs no matplotlib")
    add("--seed", type=int, default=42, help="of the bootstrap, where weights differ")
    options = parser.parse_args()
    options.format = list(dict.fromkeys(name.strip() for name in options.format.split(",")))
    if unknown := [name for name in options.format if name not in FORMATS]:
        raise InputError(f"--format: {unknown[0]!r} is none of {', '.join(FORMATS)}")
    if options.compare:
        names = [name.strip() for name in options.compare.split(",")]
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(f"--compare {options.compare}: name two or more evaluations, as in local,hub")
        options.compare = COPY if set(names) == set(COPY) else names
    return options


if __name__ == "__main__":
    run(main, "plot_results.py")
