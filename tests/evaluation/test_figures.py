"""The pictures have the size, the letters and the room between labels that print needs."""

import struct
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from goodreads.data.sampling import Parameters
from goodreads.evaluation import comparison, figures
from tests.evaluation.conftest import Write, make_split

LONG = "an-organisation-with-a-long-name/goodreads-genre-classifier-distilbert-base-cased-of-eight-genres"
HUB = {"source": LONG, "commit": "0123456789abcdef"}
OF_ONE = {
    "confusion": figures.confusion,
    "reliability": figures.reliability,
    "per_genre": lambda result: figures.per_genre([result]),
    "overall": lambda result: figures.overall([result]),
}


def visible_texts(figure: Figure) -> list[Text]:
    """Every text that is drawn: of tick labels those within the limits of their axis."""
    hidden = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        hidden |= {t.label1 for t in axis.get_major_ticks() if not low - 1e-9 <= t.get_loc() <= high + 1e-9}
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text().strip())
    return [text for text in texts if text.get_visible() and text not in hidden]


def overlap(a: Text, b: Text) -> bool:
    """Whether two texts cover each other; for rotated ones their extents along the diagonal decide."""
    one, two = a.get_window_extent(), b.get_window_extent()
    width, height = min(one.x1, two.x1) - max(one.x0, two.x0), min(one.y1, two.y1) - max(one.y0, two.y0)
    return width > 1 and height > 1 and not (a.get_rotation() % 90 and b.get_rotation() % 90)


def words_of_printable(figure: Figure) -> str:
    """All text of a figure, once it is clear that it can be printed and read."""
    figure.canvas.draw()
    width, height = figure.get_size_inches()
    assert 6.3 <= width <= 7 and height <= 9
    texts = visible_texts(figure)
    assert min(text.get_fontsize() for text in texts) >= 7
    frame = figure.bbox.padded(1)
    for text in texts:
        box = text.get_window_extent()
        assert frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1), text.get_text()
    assert not [(a.get_text(), b.get_text()) for a, b in combinations(texts, 2) if overlap(a, b)]
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize("genres", [2, 8])
@pytest.mark.parametrize("kind", OF_ONE)
def test_every_picture_is_printable_and_says_of_what_it_is(write: Write, kind: str, genres: int) -> None:
    words = words_of_printable(OF_ONE[kind](write("hub", genres=genres, model=HUB)))
    for part in ("Hub", "0123456789", "generated test reviews", "2026-01-02"):
        assert part in words
    assert LONG in words.replace(" ", "")
    result = write(
        "mine", genres=genres, model={"source": "/me/secret/m"}, parameters={"source": "/me/secret/d"}
    )
    words = words_of_printable(OF_ONE[kind](result))
    assert "mine: m (weights aaaaaaaa)" in words and "test reviews from d;" in words
    assert "secret" not in words  # no path of this machine


@pytest.mark.parametrize("scale", [0, 100])
@pytest.mark.parametrize("kind", OF_ONE)
def test_extreme_scores_are_printable(write: Write, kind: str, scale: int) -> None:
    logits = (scale * np.eye(8, dtype=np.float32))[make_split(8, 20).labels]
    words = words_of_printable(OF_ONE[kind](write("extreme", logits)))
    assert kind != "reliability" or "extreme is calibrated" in words


@pytest.mark.parametrize(
    ("names", "finding"),
    [
        (["local", "hub"], "Local and Hub copy: DIFFERENT"),
        (["tfidf", "a-name-of-a-run-that-goes-on-and-on", "bert", "seed-43", "hub"], "of 10 differences"),
    ],
)
def test_several_evaluations_stand_side_by_side(
    tmp_path: Path, write: Write, names: list[str], finding: str
) -> None:
    documents = [write(name, seed=i, weights=str(i) * 64, model=HUB) for i, name in enumerate(names)]
    pairs = comparison.compare(tmp_path, names)
    words = words_of_printable(figures.overall(documents, pairs))
    assert finding in words and "Holm's correction" in words and words.count(", p = ") == len(pairs)
    assert len(names) + 1 == len(figures.per_genre(documents).axes[0].get_legend_handles_labels()[1])


@pytest.mark.parametrize("epochs", [1, 4, 20])
def test_the_training_curve_is_printable_and_marks_the_saved_epoch(epochs: int) -> None:
    losses = {"train_loss": 2.2, "test_loss": 2.1} | ({"validation_loss": 2.3} if epochs > 1 else {})
    saved = 2 if epochs == 4 else epochs
    record = {
        "epochs": [{"epoch": i, **losses} for i in range(1, epochs + 1)],
        "losses": [{"epoch": s / 10, "loss": 2 - s / 100} for s in range(1, 10 * epochs)] * (epochs > 1),
        "saved_epoch": float(saved),
        "settings": {"model_name_or_path": "/home/me/distil-mini"},
        "model": {"files_sha256": {"model.safetensors": "a" * 64}},
        "data": {"train_reviews": 640},
        "created": "2026-01-02T03:04:05+00:00",
    }
    figure = figures.training_curve(record, "generated ")
    words = words_of_printable(figure)
    for part in (f"Epoch {saved} of {epochs} is saved", "distil-mini", "640 generated reviews", "2026-01-02"):
        assert part in words
    assert "/home/me" not in words
    assert ("Validation, selects the epoch" in words) is (epochs > 1)
    (mark,) = [line for line in figure.axes[0].lines if line.get_label() == "Saved"]
    assert mark.get_xdata() == [saved, saved] and figure.axes[0].get_ylim()[0] == 0


def test_the_confusion_matrix_has_one_decimal_blank_zeros_and_no_upright_labels(write: Write) -> None:
    result = write("local")
    axes = figures.confusion(result).axes[0]
    counts = np.array(result["confusion_matrix"])
    shares = (100 * counts / counts.sum(axis=1, keepdims=True)).ravel()
    assert [text.get_text() for text in axes.texts] == [f"{share:.1f}" if share else "" for share in shares]
    assert {text.get_rotation() for text in axes.get_xticklabels()} == {30}
    assert {text.get_rotation() for text in axes.get_yticklabels()} == {0}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [({}, True), ({"source": "/my/copy"}, True), ({"source": "sample"}, False), ({"seed": 43}, False)],
)
def test_chance_and_for_its_own_protocol_the_references_accuracy_are_drawn(
    write: Write, changes: dict[str, Any], shown: bool
) -> None:
    result = write("local", parameters=Parameters().as_json() | changes)
    words = words_of_printable(figures.overall([result]))
    assert "Chance (0.125)" in words
    assert ("Reference's accuracy (0.5538)" in words) is shown


def test_files_are_for_print_and_the_hubs_copy_is_not_drawn_twice(tmp_path: Path, write: Write) -> None:
    names = ("hub", "local", "other")
    drawn = figures.draw_all(tmp_path, {name: write(name, genres=2) for name in names}, [], [], ["png"])
    expected = {f"{stem}_{name}.png" for stem in ("confusion_matrix", "reliability") for name in names}
    expected |= {f"{s}_{n}.png" for s in ("per_class_metrics", "overall_metrics") for n in names[1:]}
    assert {*drawn} == expected
    content = (tmp_path / "per_class_metrics_local.png").read_bytes()
    assert 6.3 * 300 <= struct.unpack(">I", content[16:20])[0] <= 7 * 300  # 300 dots an inch
