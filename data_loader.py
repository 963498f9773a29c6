"""Stream UCSD Goodreads reviews, sample them as the reference does, and write the train and test split.

    python data_loader.py                                    # the eight files of the UCSD server, into data/
    python data_loader.py --source ~/goodreads               # from a local folder (or another base URL)
    python data_loader.py --source sample                    # from generated reviews, without any network
    python data_loader.py --head all --per-genre all --test-from data --output-dir data-all    # everything

Reads the first --head reviews of each genre, samples --per-genre of them with one random generator, and
makes the first --train-per-genre of those the train split and the rest the test split. A second run with
the same parameters checks what is on disk and uses it.

--head all samples from whole files. --per-genre all makes training data, in shards, of every review read
whose id or text does not stand in the test split of --test-from. The last line on stdout is JSON.
Files: README, "Files".
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import Parser, positive_int, run, whole_number
from goodreads.common.files import sha256_file
from goodreads.data.genres import GENRES, parse_genres
from goodreads.data.resumable_http import Limits
from goodreads.data.review_files import UCSD
from goodreads.data.sampling import Parameters


def table(manifest: dict[str, Any]) -> str:
    """The manifest's counts and report in a few lines."""
    lines = [f"{'genre':<24}{'read':>10}{'train':>10}{'test':>8}"]
    for genre, entry in manifest["read"].items():
        train, test = (manifest["splits"][name]["genres"][genre]["reviews"] for name in ("train", "test"))
        lines.append(f"{genre:<24}{entry['reviews_read']:>10}{train:>10}{test:>8}")
    counts = {**manifest["report"], "removed": len(manifest["removed_train_review_ids"])}
    counts["bad_lines_left_out"] = sum(len(entry["bad_lines"]) for entry in manifest["read"].values())
    found = (f"{name.replace('_', ' ')} {n}" for name, n in counts.items() if type(n) is int)
    return "\n".join([*lines, ", ".join(found)])


def summary(manifest: dict[str, Any], output_dir: Path) -> dict[str, Any]:
    """What a script wants from the last line of stdout."""
    splits = manifest["splits"]
    return {
        "data_dir": str(output_dir),
        "source": manifest["parameters"]["source"],
        "genres": list(manifest["read"]),
        **{f"{name}_reviews": sum(g["reviews"] for g in splits[name]["genres"].values()) for name in splits},
        **{f"{name}_content_sha256": splits[name]["content_sha256"] for name in splits},
        "manifest_sha256": sha256_file(output_dir / "manifest.json"),
    }


def _or_all(kind: Callable[[str], int]) -> Callable[[str], int | None]:
    def parse(text: str) -> int | None:
        return None if text == "all" else kind(text)

    parse.__name__ = "number (or 'all')"
    return parse


def parse_options() -> argparse.Namespace:
    """The options, checked against each other."""
    parser = Parser(__doc__, prog="data_loader.py")
    add, default = parser.add_argument, Parameters()
    add("--source", default=UCSD, help="base URL, local folder, or 'sample' for generated reviews")
    add("--genres", default=",".join(GENRES), help="comma-separated slugs")
    number = _or_all(positive_int)
    add("--head", type=number, default=default.head, help="reviews read of each file, or 'all'")
    add("--per-genre", type=number, default=default.per_genre, help="reviews sampled of those, or 'all'")
    add("--train-per-genre", type=positive_int, default=800, help="sampled reviews that train; the rest test")
    add("--test-from", type=Path, help="data folder whose test split --per-genre all holds out")
    add("--seed", type=whole_number, default=default.seed, help="of the sampling")
    add("--output-dir", type=Path, default=Path("data"), help="folder for the split and its manifest")
    add("--drop-duplicates", action="store_true", help="drop train reviews whose text or id stands in test")
    add("--allow-fewer", action="store_true", help="accept genres with fewer than --per-genre reviews")
    add("--max-bad-lines", type=whole_number, default=0, help="lines per genre that may be no reviews")
    add("--force", action="store_true", help="replace a split that stands in --output-dir")
    network, limits = parser.add_argument_group("network"), Limits()
    network.add_argument("--timeout", type=positive_int, default=60, help="seconds without a byte")
    network.add_argument("--retries", type=whole_number, default=limits.retries, help="failures in a row")
    options = parser.parse_args()
    if options.per_genre is None:
        options.test_from = options.test_from or Path("data")
        for name in ("train_per_genre", "seed", "drop_duplicates", "allow_fewer"):
            if getattr(options, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} has no effect with --per-genre all")
        options.train_per_genre = None
    elif options.test_from is not None:
        parser.error("--test-from goes with --per-genre all")
    return options


def main() -> None:
    """Make or check the split and print its summary."""
    options = vars(parse_options())
    output_dir, force, test_from = (options.pop(name) for name in ("output_dir", "force", "test_from"))
    limits = Limits(options.pop("timeout"), options.pop("retries"))
    del options["debug"]
    parameters = Parameters(**{**options, "genres": tuple(parse_genres(options["genres"]))})
    from goodreads.data.split_builder import build_split

    manifest = build_split(parameters, output_dir, force=force, limits=limits, test_from=test_from)
    print(table(manifest))
    print(json.dumps(summary(manifest, output_dir)))


if __name__ == "__main__":
    run(main, "data_loader.py")
