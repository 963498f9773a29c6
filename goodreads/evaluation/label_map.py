"""What a model's labels stand for: slugs, the genres' human names, or names that --label-map explains."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from goodreads.common.errors import InputError
from goodreads.data.genres import GENRES


def parse_label_map(text: str) -> dict[str, str]:
    """``LABEL_0=children,LABEL_1=poetry``, or the path of a JSON file (``.json``) with such pairs.

    Raises:
        InputError: it is neither.
    """
    try:
        if "=" in text and not text.endswith(".json"):
            found = dict(pair.split("=") for pair in text.split(","))
        else:
            found = json.loads(Path(text).read_text(encoding="utf-8"))
        return {name.strip(): genre.strip() for name, genre in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"--label-map {text} cannot be read ({error}); give LABEL_0=children,... or a .json file of pairs"
        ) from error


def renamed(model_labels: Sequence[str], label_map: Mapping[str, str], model: str) -> list[str]:
    """The genre slug that each label of a model stands for; a label that names no genre stays as it is.

    ``History & Biography`` and the like are known without a map.

    Raises:
        InputError: the map names a label that the model has not.
    """
    if unknown := sorted(label_map.keys() - set(model_labels)):
        raise InputError(
            f"--label-map: {model} has no label {unknown[0]!r}, but {', '.join(model_labels[:8])}"
        )
    names = [label_map.get(label, label) for label in model_labels]
    slugs = [re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_") for name in names]
    return [slug if slug in GENRES else name for slug, name in zip(slugs, names)]
