"""The eight genres, the order in which they are sampled, and label maps.

Label ids are the alphabetical order of the slugs that a split uses; they are written into the model's
config as ``id2label``/``label2id`` and every later step matches labels by name, never by position.
"""

from collections.abc import Sequence
from textwrap import shorten

from goodreads.common.errors import InputError

# slug -> the name a reader knows; alphabetical by slug, hence in label id order
GENRES = {
    "children": "Children",
    "comics_graphic": "Comics & Graphic",
    "fantasy_paranormal": "Fantasy & Paranormal",
    "history_biography": "History & Biography",
    "mystery_thriller_crime": "Mystery/Thriller/Crime",
    "poetry": "Poetry",
    "romance": "Romance",
    "young_adult": "Young Adult",
}

# The reference draws all genres from one random generator, so this order (of the alphabet, but for poetry)
# is part of the protocol.
SAMPLING_ORDER = ("poetry", *(genre for genre in GENRES if genre != "poetry"))


def file_name(genre: str) -> str:
    """What the UCSD server calls a genre's file."""
    return f"goodreads_reviews_{genre}.json.gz"


def parse_genres(text: str) -> tuple[str, ...]:
    """``"romance,poetry"`` to the slugs in sampling order.

    Raises:
        InputError: an unknown or repeated slug, or fewer than two of them.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) < 2 or len(set(names) & set(GENRES)) < len(names):
        raise InputError(f"--genres {text}: name at least two of {','.join(GENRES)}, each once")
    return tuple(genre for genre in SAMPLING_ORDER if genre in names)


def match_labels(model_labels: Sequence[str], data_labels: Sequence[str], model: str) -> list[int]:
    """Columns of the model's logits in the order of the data's labels.

    Args:
        model_labels: the model's label names by id.
        data_labels: the split's label names by id.
        model: how to name the model in an error.

    Returns:
        For each data label, its column in the model's logits; the identity when the orders agree.

    Raises:
        InputError: the names differ, so no order makes the predictions mean anything.
    """
    if sorted(model_labels) != sorted(data_labels):
        ours, theirs = (shorten(", ".join(names), 200) for names in (model_labels, data_labels))
        advice = "evaluate it on the split it was trained for, or retrain with train.py"
        raise InputError(f"{model}: its labels ({ours}) are not the data's ({theirs}); {advice}")
    return [list(model_labels).index(name) for name in data_labels]
