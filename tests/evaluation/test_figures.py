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

from goodreads.evaluation import comparison, figures, results
from tests.evaluation.conftest import Write, make_logits, make_split

LONG = "an-organisation-with-a-long-name/goodreads-genre-classifier-distilbert-base-cased-of-eight-genres"
HUB = {"source": LONG, "commit": "0123456789abcdef"}


def training_log(epochs: int, per_step: bool = True, best: int | None = None) -> Any:
    rows = [{"epoch": i, "step": 10 * i, "train_loss": 2 / i, "test_loss": 2.1 / i,
             "test_accuracy": 0.5 + 0.004 * i} for i in range(1, epochs + 1)]  # fmt: skip
    if best:
        rows = [row | {"validation_loss": 2.2, "validation_accuracy": 0.5} for row in rows]
    return {
        "epochs": rows,
        "losses": [{"epoch": s / 10, "loss": 2 - s / 100} for s in range(1, 10 * epochs)] * per_step,
        "best_checkpoint": f"checkpoint-{10 * best}" if best else None,
        "settings": {"model_name_or_path": "/home/me/distil-mini"},
        "model": {"files_sha256": {"model.safetensors": "a" * 64}},
        "data": {"train_reviews": 640},
        "created": "2026-01-02T03:04:05+00:00",
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


def assert_printable(figure: Figure) -> None:
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


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize(("genres", "equal"), [(2, True), (8, False)])
def test_every_picture_is_printable_and_says_of_what_it_is(
    tmp_path: Path, write: Write, genres: int, equal: bool
) -> None:
    hub = {"model": HUB, "weights": ("a" if equal else "b") * 64, "seed": 1 if equal else 2}
    both = [write("local", genres=genres), write("hub", genres=genres, **hub)]
    pairs = comparison.compare_all(tmp_path, ["local", "hub"], seed=1)
    for figure in (
        figures.confusion(both[1]),
        figures.per_genre(both),
        figures.reliability(both[1]),
        figures.overall(both, pairs),
    ):
        assert_printable(figure)
        for part in ("Hub:", "0123456789", "generated test reviews", "2026-01-02"):
            assert part in words(figure)
        assert LONG in words(figure).replace(" ", "")
    assert ("IDENTICAL" if equal else "DIFFERENT") in words(figure)


@pytest.mark.parametrize("scale", [0, 100])
def test_extreme_scores_are_printable(write: Write, scale: int) -> None:
    split = make_split(8, 20)
    result = write("extreme", (scale * np.eye(8, dtype=np.float32))[split.labels])
    for draw in (figures.confusion, figures.reliability):
        assert_printable(draw(result))
    for draw_several in (figures.per_genre, figures.overall):
        assert_printable(draw_several([result]))


def test_many_evaluations_fit_one_picture(tmp_path: Path, write: Write) -> None:
    names = ["local", "tfidf", "a-name-of-a-run-that-goes-on-and-on", "modernbert", "seed-43"]
    documents = [write(name, seed=i, weights=str(i) * 64) for i, name in enumerate(names)]
    figure = figures.overall(documents, comparison.compare_all(tmp_path, names, seed=1))
    assert_printable(figure)
    assert "of 10 differences in accuracy significant" in words(figure)


@pytest.mark.parametrize(("epochs", "per_step"), [(1, False), (20, True)])
def test_the_training_curve_is_printable(epochs: int, per_step: bool) -> None:
    figure = figures.training_curve(training_log(epochs, per_step), "generated ")
    assert_printable(figure)
    for part in (f"Epoch {epochs} of {epochs} is saved", "distil-mini", "generated reviews", "2026-01-02"):
        assert part in words(figure)
    assert "/home/me" not in words(figure)
    assert figure.axes[0].get_ylim()[0] == 0
    assert figure.axes[1].get_ylim() == (0, 1)  # differences of 0.008 look like what they are


def test_the_training_curve_marks_the_epoch_that_validation_selected() -> None:
    figure = figures.training_curve(training_log(4, best=2))
    assert_printable(figure)
    assert "Epoch 2 of 4 is saved" in words(figure)
    assert "Validation, selects the epoch" in words(figure)
    (mark,) = [line for line in figure.axes[0].lines if line.get_label() == "Saved"]
    assert list(mark.get_xdata()) == [2, 2]


def test_an_unevaluated_run_has_a_training_curve() -> None:
    record = training_log(1)
    record["epochs"] = [{"epoch": 1, "step": 10, "train_loss": 1.0}]
    assert "not evaluated" in words(figures.training_curve(record))


def test_the_confusion_matrix_has_one_decimal_blank_zeros_and_no_upright_labels(write: Write) -> None:
    result = write("local", each=7)
    figure = figures.confusion(result)
    cells = [text.get_text() for text in figure.axes[0].texts]
    counts = np.array(result["confusion_matrix"])
    shares = (100 * counts / counts.sum(axis=1, keepdims=True)).ravel()
    assert cells == [f"{share:.1f}" if share else "" for share in shares]
    assert {text.get_rotation() for text in figure.axes[0].get_xticklabels()} == {30}
    assert {text.get_rotation() for text in figure.axes[0].get_yticklabels()} == {0}


def test_chance_and_for_its_own_protocol_the_references_accuracy_are_drawn(write: Write) -> None:
    data = {"reviews": 160, "source": "https://example.org/", "parameters": dict(figures.PROTOCOL)}
    result = write("local", data=data)
    assert "Reference's accuracy (0.5538)" in words(figures.overall([result]))
    for other in ({"source": "sample"}, {"parameters": {**figures.PROTOCOL, "seed": 43}}, {"parameters": {}}):
        shown = words(figures.overall([result | {"data": data | other}]))
        assert "Reference" not in shown
        assert "Chance (0.125)" in shown
    assert "Reference" not in words(figures.overall([write("local", genres=2, data=data)]))


def test_files_are_for_print_and_one_picture_shows_local_and_hub(tmp_path: Path, write: Write) -> None:
    both = {name: write(name, genres=2) for name in ("local", "hub", "other")}
    drawn = figures.draw_all(tmp_path, both, [], ["png"])
    names = ("local", "hub", "other")
    expected = {f"{stem}_{name}.png" for stem in ("confusion_matrix", "reliability") for name in names}
    expected |= {f"{stem}_{n}.png" for stem in ("per_class_metrics", "overall_metrics") for n in names}
    assert {*drawn} == expected - {"per_class_metrics_hub.png", "overall_metrics_hub.png"}
    content = (tmp_path / "per_class_metrics_local.png").read_bytes()
    assert 6.3 * 300 <= struct.unpack(">I", content[16:20])[0] <= 7 * 300  # 300 dots an inch
    figure = figures.per_genre([both["local"], both["hub"]])
    assert {"Local", "Hub"} < set(figure.axes[0].get_legend_handles_labels()[1])


def test_no_path_of_this_machine_is_in_a_picture(write: Write) -> None:
    source = {"model": {"source": "/me/secret/model"}, "data": {"reviews": 160, "source": "/me/secret/data"}}
    result = write("local", **source)
    assert "secret" not in words(figures.overall([result])) + results.origin(result) + results.reviews(result)
    assert "model (weights aaaaaaaa)" in words(figures.overall([result]))


def test_confidence_is_held_against_accuracy(write: Write) -> None:
    logits = make_logits(make_split(8, 20), 1)
    assert "is overconfident" in words(figures.reliability(write("sure", 50 * logits)))
    assert "is underconfident" in words(figures.reliability(write("unsure", 0.01 * logits)))
