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
from goodreads.common.errors import InputError

FORMATS = ("png", "pdf", "svg")


def main() -> None:
    """Draw, compare, print the table and one JSON line.

    Raises:
        CheckFailed: evaluations that should be of one model are DIFFERENT.
    """
    options = _options()
    from goodreads.evaluation import comparison, results

    folder, evaluations = options.results_dir, results.read_all(options.results_dir)
    names = options.compare or [name for name in comparison.COPY if name in evaluations]
    pairs = comparison.compare(folder, names)
    strict = options.expect_same or set(names) == set(comparison.COPY)
    for pair in pairs:
        if not strict and not (pair["same"]["review_ids"] and pair["same"]["labels"]):
            raise InputError(f"--compare: {' and '.join(pair['names'])} are not of the same reviews")
    drawn, verdict = [], pairs[0]["verdict"] if len(pairs) == 1 else None
    if pairs:
        print(comparison.write(folder, names, pairs))
    if not options.no_plots:
        from goodreads.evaluation.figures import draw_all

        drawn = draw_all(folder, evaluations, names, pairs, options.format)
    print(json.dumps({"drawn": drawn, "verdict": verdict}))
    if strict:
        comparison.check_same(pairs)


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="plot_results.py")
    add = parser.add_argument
    add("--results-dir", type=Path, default=Path("results"), help="folder of the results files and pictures")
    add("--compare", metavar="A,B[,C...]", help="names of the evaluations to compare; else local,hub")
    add("--expect-same", action="store_true", help="exit status 1 if any of them are DIFFERENT")
    add("--format", default="png", metavar="png,pdf,svg", help="of the pictures, one or more")
    add("--no-plots", action="store_true", help="compare only; needs no matplotlib")
    options = parser.parse_args()
    options.format = options.format.split(",")
    if unknown := set(options.format) - {*FORMATS}:
        raise InputError(f"--format: {min(unknown)!r} is none of {', '.join(FORMATS)}")
    options.compare = options.compare.split(",") if options.compare else []
    if options.compare and len(set(options.compare)) < max(2, len(options.compare)):
        raise InputError("--compare: name two or more evaluations, each once, as in local,hub")
    return options


if __name__ == "__main__":
    run(main, "plot_results.py")
