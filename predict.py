"""Tell the genre of reviews: one JSON line per review, with the genre and the probabilities.

    python predict.py "A heist in space, and a love story."      # with the model in model/
    python predict.py --model user/name --file reviews.txt       # a Hub model; one review per line
    zcat reviews.json.gz | python predict.py --top 3             # lines of JSON with review_text

Reviews are cut at the model's length limit, and its labels named, as in evaluation. A review_id in a line of
JSON is passed on.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import Parser, positive_int, run
from goodreads.common.errors import InputError
from goodreads.common.progress import log
from goodreads.evaluation.label_map import parse_label_map

CHUNK = 2_000  # reviews scored at once


def main() -> None:
    """Score the reviews in the order given, and print a line for each."""
    options = _options()
    reviews = _reviews(options)
    first = next(reviews)  # bad input is found before the model is loaded
    from scipy.special import softmax

    from goodreads.evaluation.evaluator import load
    from goodreads.evaluation.label_map import renamed
    from goodreads.evaluation.scoring import score
    from goodreads.hub.model_source import find_model

    with tempfile.TemporaryDirectory() as scratch:
        folder, _ = find_model(options.model, options.revision, options.cache_dir, Path(scratch))
        classifier = load(folder, "float32")
    labels, reviews = renamed(classifier.labels, options.label_map), chain([first], reviews)
    while part := list(islice(reviews, CHUNK)):
        logits, _ = score(classifier, [text for _, text in part])
        for (known, _), row in zip(part, softmax(logits.astype(float), axis=1)):
            best = {labels[i]: round(float(row[i]), 6) for i in (-row).argsort(kind="stable")[: options.top]}
            print(json.dumps(known | {"genre": next(iter(best)), "probabilities": best}, ensure_ascii=False))


def _reviews(options: argparse.Namespace) -> Iterator[tuple[dict[str, object], str]]:
    """For each review what is known of it (its review_id, if any), and its text.

    Raises:
        InputError: there is none, the file cannot be read, or a line is not what it should be.
    """
    if options.text:
        yield from (({}, text) for text in options.text)
        return
    name, number = options.file or "stdin", 0
    if not options.file and sys.stdin.isatty():
        log.info("reading reviews from the terminal, one per line; Ctrl-D ends")
    try:
        with options.file.open("rb") if options.file else nullcontext(sys.stdin.buffer) as file:
            for line in file:
                number += 1
                text = line.decode("utf-8-sig").rstrip("\r\n")
                document = json.loads(text) if text.startswith("{") else {"review_text": text}
                if not isinstance(document.get("review_text"), str):
                    raise ValueError("no review_text in this line of JSON")
                yield {k: v for k, v in document.items() if k == "review_id"}, document["review_text"]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name}{f', line {number}' if number else ''}: {error}") from error
    if not number:
        raise InputError(f"{name} holds no review; give one as argument, in a --file, or on stdin")


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="predict.py")
    add = parser.add_argument
    add("text", nargs="*", help="reviews; without any they come from --file or stdin, one per line")
    add("--file", type=Path, help="file with one review per line, or lines of JSON with review_text")
    add("--model", default="model", metavar="PATH_OR_REPO", help="model folder, or Hub repository user/name")
    add("--revision", help="branch, tag or commit of the Hub repository")
    add("--cache-dir", type=Path, help="keep a fetched model here")
    add("--label-map", type=parse_label_map, metavar="FILE_OR_PAIRS", help="as for evaluate_model.py")
    add("--top", type=positive_int, help="print the K most probable genres only; all if not given")
    options = parser.parse_args()
    if options.text and options.file:
        raise InputError("give reviews as arguments or a --file, not both")
    return options


if __name__ == "__main__":
    run(main, "predict.py")
