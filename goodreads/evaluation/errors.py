"""errors_NAME.md: the most confident mistakes of each pair of genres, to read and learn from."""

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from goodreads.data.genres import GENRES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from goodreads.data.split_store import Split

EACH, LETTERS = 3, 300  # mistakes shown per pair; letters of a review's text
WARNING = (
    "**Not for publication.** This file holds text of reviews, which may not be passed on. "
    "push_to_hub.py never publishes it."
)


def errors_markdown(split: "Split", logits: "NDArray[np.float32]") -> str:
    """The confused pairs, most frequent first, each with its most confident mistakes.

    Args:
        split: n reviews.
        logits: shape (n, labels), columns in the order of the split's labels.
    """
    names = [GENRES.get(label, label) for label in split.label_names]
    probabilities = softmax(logits.astype(np.float64), axis=1)
    labels, predictions = np.array(split.labels), logits.argmax(axis=1)
    pairs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in np.argsort(-probabilities.max(axis=1), kind="stable"):
        if labels[i] != predictions[i]:
            pairs[labels[i], predictions[i]].append(int(i))
    wrong = sum(map(len, pairs.values()))
    lines = ["# Mistakes", "", WARNING, "", f"{wrong:,} of {len(labels):,} reviews are misclassified."]
    for (true, taken), rows in sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0])):
        support = np.count_nonzero(labels == true)
        lines += ["", f"## {names[true]} taken for {names[taken]}: {len(rows)} of {support}", ""]
        for i in rows[:EACH]:
            sure, left = (f"{probabilities[i, label]:.3f} {names[label]}" for label in (taken, true))
            lines += [f"- {sure}, {left}; review {split.review_ids[i]}", ""]
            lines += [f"  > {_quoted(split.texts[i])}", ""]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """The beginning of a review on one line, with Markdown's and HTML's characters escaped."""
    text = " ".join(text.split())
    text = text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text) or "(empty)"
