"""The pictures have the size, the letters and the room between labels that print needs."""

import struct
import zlib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from goodreads.evaluation import comparison, drawing, figures, results
from tests.evaluation.conftest import Write, make_logits, make_split

LONG = "an-organisation-with-a-long-name/goodreads-genre-classifier-distilbert-base-cased-of-eight-genres"
HUB = {"source": LONG, "commit": "0123456789abcdef"}


def training_log(epochs: int = 3, per_step: bool = True, best: int | None = None, **changes: float) -> Any:
    rows = [
        {
            "epoch": i,
            "step": 10 * i,
            "train_loss": 2 / i,
            "test_loss": 2.1 / i,
            "test_accuracy": 0.5 + 0.004 * i,
        }
        | ({"validation_loss": 2.2 / i, "validation_accuracy": 0.5} if best else {})
        | changes
        for i in range(1, epochs + 1)
    ]
    steps = [
        {"step": s, "epoch": s / 10, "loss": 2 - s / 100, "learning_rate": 1e-5}
        for s in range(1, 10 * epochs)
    ]
    return {
        "epochs": rows,
        "steps": 10 * epochs,
        **({"losses": steps} if per_step else {}),
        "best_checkpoint": f"checkpoint-{10 * best}" if best else None,
        "settings": {"model_name_or_path": "/home/me/distil-mini"},
        "model": {"files_sha256": {"model.safetensors": "a" * 64}},
        "data": {"train_reviews": 640},
        "created": "2026-01-02T03:04:05+00:00",
        "git_commit": "0123456789abcdef",
    }


def visible_texts(figure: Figure) -> list[Text]:
    """Every text that is drawn: of tick labels those within the limits of their axis."""
    figure.canvas.draw()
    hidden = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        hidden |= {t.label1 for t in axis.get_major_ticks() if not low - 1e-9 <= t.get_loc() <= high + 1e-9}
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text().strip())
    return [text for text in texts if text.get_visible() and text not in hidden]


def overlap(a: Text, b: Text) -> bool:
    """Whether two texts cover each other; for rotated ones their extents along the diagonal decide."""
    one, two = a.get_window_extent(), b.get_window_extent()
    width, height = (
        min(getattr(one, f"{axis}1"), getattr(two, f"{axis}1"))
        - max(getattr(one, f"{axis}0"), getattr(two, f"{axis}0"))
        for axis in "xy"
    )
    return width > 1 and height > 1 and not (a.get_rotation() % 90 and b.get_rotation() % 90)


def assert_printable(figure: Figure) -> None:
    width, height = figure.get_size_inches()
    assert 6.3 <= width <= 7
    assert height <= 9
    texts = visible_texts(figure)
    assert min(text.get_fontsize() for text in texts) >= 7
    frame = figure.bbox
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= frame.x0 - 1 and box.x1 <= frame.x1 + 1, text.get_text()
        assert box.y0 >= frame.y0 - 1 and box.y1 <= frame.y1 + 1, text.get_text()
    assert not [(a.get_text(), b.get_text()) for a, b in combinations(texts, 2) if overlap(a, b)]


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in visible_texts(figure)).replace("\n", " ")


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    plt.close("all")


def evaluations(write: Write, genres: int, equal: bool = False) -> list[dict[str, Any]]:
    local = write("local", genres=genres)
    hub = write("hub", genres=genres, model=HUB, weights=("a" if equal else "b") * 64, seed=1 if equal else 2)
    return [local, hub]


@pytest.mark.parametrize(("genres", "equal"), [(2, True), (8, False)])
def test_every_picture_is_printable(tmp_path: Path, write: Write, genres: int, equal: bool) -> None:
    both = evaluations(write, genres, equal)
    pairs = comparison.compare_all(tmp_path, ["local", "hub"], seed=1)
    for figure in (
        figures.confusion(both[1]),
        figures.per_genre(both),
        figures.per_genre(both[:1]),
        figures.overall(both[1:]),
        figures.reliability(both[1]),
        figures.overall(both, pairs),
    ):
        assert_printable(figure)
        assert "generated test reviews" in words(figure)
        assert "2026-01-02" in words(figure)
    assert ("IDENTICAL" if equal else "DIFFERENT") in words(figure)
    assert LONG in words(figure).replace(" ", "").replace("Hub:", "") and "0123456789" in words(figure)


def test_extreme_scores_are_printable(tmp_path: Path, write: Write) -> None:
    split = make_split(8, 20)
    perfect = (100 * np.eye(8, dtype=np.float32))[split.labels]
    constant = np.zeros((160, 8), dtype=np.float32)
    for name, logits in (("perfect", perfect), ("constant", constant)):
        result = write(name, logits)
        for figure in (
            figures.confusion(result),
            figures.per_genre([result]),
            figures.overall([result]),
            figures.reliability(result),
        ):
            assert_printable(figure)


def test_many_evaluations_fit_one_picture(tmp_path: Path, write: Write) -> None:
    names = ["local", "tfidf", "a-name-of-a-run-that-goes-on-and-on", "modernbert", "seed-43"]
    documents = [write(name, seed=i, weights=str(i) * 64) for i, name in enumerate(names)]
    figure = figures.overall(documents, comparison.compare_all(tmp_path, names, seed=1))
    assert_printable(figure)
    assert "differences in accuracy" in words(figure)


@pytest.mark.parametrize(("epochs", "per_step"), [(1, False), (1, True), (3, True), (20, True)])
def test_the_training_curve_is_printable(epochs: int, per_step: bool) -> None:
    figure = figures.training_curve(training_log(epochs, per_step), "generated reviews")
    assert_printable(figure)
    for part in (f"Epoch {epochs} of {epochs} is saved", "distil-mini", "generated reviews", "2026-01-02"):
        assert part in words(figure)
    assert "/home/me" not in words(figure)
    low, high = figure.axes[1].get_ylim()
    assert high - low >= 0.15  # differences of 0.008 look like what they are
    assert figure.axes[0].get_ylim()[0] == 0


def test_the_training_curve_marks_the_epoch_that_validation_selected() -> None:
    figure = figures.training_curve(training_log(4, best=2), "reviews")
    assert_printable(figure)
    assert "Epoch 2 of 4 is saved" in words(figure)
    assert "Validation, selects the epoch" in words(figure)
    marks = [line for line in figure.axes[0].lines if line.get_label() == "Saved"]
    assert list(marks[0].get_xdata()) == [2, 2]


def test_an_unevaluated_run_has_a_training_curve() -> None:
    record = training_log(2)
    record["epochs"] = [
        {"epoch": 1, "step": 10, "train_loss": 1.0},
        {"epoch": 2, "step": 20, "train_loss": 0.9},
    ]
    assert "not evaluated" in words(figures.training_curve(record, "reviews"))


def test_the_confusion_matrix_has_one_decimal_blank_zeros_and_no_upright_labels(write: Write) -> None:
    result = write("local", each=7)
    figure = figures.confusion(result)
    cells = [text.get_text() for text in figure.axes[0].texts]
    counts = np.array(result["confusion_matrix"])
    shares = (100 * counts / counts.sum(axis=1, keepdims=True)).ravel()
    assert cells == [f"{share:.1f}" if share else "" for share in shares]
    figure.canvas.draw()
    assert {text.get_rotation() for text in figure.axes[0].get_xticklabels()} == {30}
    assert {text.get_rotation() for text in figure.axes[0].get_yticklabels()} == {0}


def test_chance_and_for_its_own_protocol_the_references_accuracy_are_drawn(write: Write) -> None:
    data = {"reviews": 160, "source": "https://example.org/", "parameters": dict(figures.PROTOCOL)}
    assert "Reference's accuracy (0.5538)" in words(figures.overall([write("local", data=data)]))
    for other in ({"source": "sample"}, {"parameters": {**figures.PROTOCOL, "seed": 43}}, {"parameters": {}}):
        shown = words(figures.overall([write("local", data=data | other)]))
        assert "Reference" not in shown
        assert "Chance (0.125)" in shown
    assert "Reference" not in words(figures.overall([write("local", genres=2, data=data)]))


def test_the_files_have_300_dots_an_inch_and_one_picture_shows_local_and_hub(
    tmp_path: Path, write: Write
) -> None:
    local, hub = evaluations(write, 2, equal=True)
    pairs = comparison.compare_all(tmp_path, ["local", "hub"], seed=1)
    both = {"local": local, "hub": hub}
    names = drawing.draw_all(tmp_path, both, [local, hub], pairs, ["png", "pdf", "svg"])
    stems = ("confusion_matrix", "per_class_metrics", "overall_metrics", "reliability")
    expected = [f"{stem}_{name}" for name in both for stem in stems] + ["comparison_local_hub"]
    assert names == [f"{name}.{kind}" for name in expected for kind in ("png", "pdf", "svg")]
    for name in names:
        content = (tmp_path / name).read_bytes()
        assert content[:4] in (b"\x89PNG", b"%PDF", b"<?xm")
        if name.endswith(".png"):
            assert 6.3 * 300 <= struct.unpack(">I", content[16:20])[0] <= 7 * 300
    pixels = [(tmp_path / f"per_class_metrics_{name}.png").read_bytes() for name in both]
    assert zlib.crc32(pixels[0]) == zlib.crc32(pixels[1])
    assert "Local" in words(figures.per_genre([local, hub])) and "Hub" in words(
        figures.per_genre([local, hub])
    )


def test_no_path_of_this_machine_is_in_a_picture(write: Write) -> None:
    result = write(
        "local",
        model={"source": "/home/me/secret/model"},
        data={"reviews": 160, "source": "/home/me/secret/goodreads"},
    )
    assert "secret" not in words(figures.overall([result])) + results.origin(result) + results.reviews(result)
    assert "model (weights aaaaaaaa)" in words(figures.overall([result]))


def test_logits_of_equal_size_are_drawn_as_calibrated_or_not(write: Write) -> None:
    sure = write("sure", 50 * make_logits(make_split(8, 20), 1))
    assert "overconfident" in words(figures.reliability(sure))
    unsure = write("unsure", 0.01 * make_logits(make_split(8, 20), 1))
    assert "underconfident" in words(figures.reliability(unsure))
