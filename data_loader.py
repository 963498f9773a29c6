"""Stream UCSD Goodreads reviews, sample them as the reference does, and write the train and test split.

    python data_loader.py                                    # the eight files of the UCSD server, into data/
    python data_loader.py --source ~/goodreads               # from a local folder (or another base URL)
    python data_loader.py --source sample                    # from generated reviews, without any network
    python data_loader.py --head all --per-genre all --test-from data --output-dir data-all    # everything

Reads the first --head reviews of each genre, samples --per-genre of them with one random generator, and
makes the first --train-per-genre of those the train split and the rest the test split. A second run with
the same parameters checks what is on disk and uses it.

--head all samples from whole files. --per-genre all makes training data, a file per genre, of every review
read whose id or text does not stand in the test split of --test-from. The last line on stdout is JSON.
Files: README, "Files".
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import Parser, positive_int, run, whole_number
from goodreads.data.genres import GENRES, parse_genres
from goodreads.data.sampling import Parameters


def report(manifest: dict[str, Any], output_dir: Path) -> str:
    """The manifest's counts as a table, and a line of JSON for scripts."""
    read, splits = manifest["read"], manifest["splits"]
    train, test = ({g: n["reviews"] for g, n in splits[name]["genres"].items()} for name in ("train", "test"))
    lines = [f"{'genre':<24}{'read':>10}{'train':>10}{'test':>8}"]
    lines += [f"{g:<24}{read[g]['reviews_read']:>10}{train[g]:>10}{test[g]:>8}" for g in read]
    counts = {**manifest["report"], "removed": len(manifest["removed_train_review_ids"])}
    counts["bad_lines_left_out"] = sum(len(entry["bad_lines"]) for entry in read.values())
    lines.append(", ".join(f"{k.replace('_', ' ')} {n}" for k, n in counts.items() if isinstance(n, int)))
    summary = {
        "data_dir": str(output_dir),
        "train_reviews": sum(train.values()),
        "test_reviews": sum(test.values()),
        "test_content_sha256": splits["test"]["content_sha256"],
    }
    return "\n".join([*lines, json.dumps(summary)])


def number_or_all(text: str) -> int | None:
    """argparse type: an integer of at least 1, or None for ``all``."""
    return None if text == "all" else positive_int(text)


def parse_options() -> argparse.Namespace:
    """The options, still to be checked against each other."""
    parser, default = Parser(__doc__, prog="data_loader.py"), Parameters()
    add = parser.add_argument
    add("--source", default=default.source, help="base URL, local folder, or 'sample' for generated reviews")
    add("--genres", type=parse_genres, default=",".join(GENRES), help="comma-separated slugs")
    add("--head", type=number_or_all, default=default.head, help="reviews read of each file, or 'all'")
    add("--per-genre", type=number_or_all, default=default.per_genre, help="reviews sampled, or 'all'")
    add("--train-per-genre", type=positive_int, help="sampled reviews for training (default: 800)")
    add("--test-from", type=Path, help="data folder whose test split --per-genre all holds out")
    add("--seed", type=whole_number, default=default.seed, help="of the sampling")
    add("--output-dir", type=Path, default=Path("data"), help="folder for the split and its manifest")
    add("--drop-duplicates", action="store_true", help="drop train reviews whose text or id stands in test")
    add("--allow-fewer", action="store_true", help="accept genres with fewer than --per-genre reviews")
    add("--max-bad-lines", type=whole_number, default=0, help="lines per genre that may be no reviews")
    add("--force", action="store_true", help="replace a split that stands in --output-dir")
    options = parser.parse_args()
    if options.train_per_genre is None and options.per_genre is not None:
        options.train_per_genre = default.train_per_genre
    return options


def main() -> None:
    """Make or check the split and print its summary."""
    options = parse_options()
    chosen = {name: value for name, value in vars(options).items() if hasattr(Parameters, name)}
    parameters = Parameters(**chosen)
    from goodreads.data.split_builder import build_split

    manifest = build_split(parameters, options.output_dir, force=options.force, test_from=options.test_from)
    print(report(manifest, options.output_dir))


if __name__ == "__main__":
    run(main, "data_loader.py")
