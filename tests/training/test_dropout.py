"""What is dropped is a matter of the review, not of the batch, and is as random as torch's."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, DistilBertConfig, PreTrainedConfig

from goodreads.model.first_token import skip_unread
from goodreads.training.dropout import ReviewDropout, _attend

LENGTHS = [30, 24, 24, 9, 5, 2]


def distilbert(p: float = 0.3) -> Any:
    return build(
        DistilBertConfig(
            vocab_size=100, dim=32, hidden_dim=64, n_layers=2, n_heads=4, num_labels=3,
            dropout=p, attention_dropout=p, seq_classif_dropout=p,
        )
    )  # fmt: skip


def bert(p: float = 0.3) -> Any:
    return build(
        BertConfig(
            vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_labels=3, hidden_dropout_prob=p, attention_probs_dropout_prob=p,
        )
    )  # fmt: skip


def build(config: PreTrainedConfig) -> Any:
    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_config(config).train()


def inputs_of(reviews: list[int], width: int = 0, left: bool = False) -> dict[str, torch.Tensor]:
    """Reviews of LENGTHS tokens that depend on the review alone, padded to the longest, or to ``width``."""
    width = width or max(LENGTHS[i] for i in reviews)
    ids, mask = torch.zeros(2, len(reviews), width, dtype=torch.int64)
    for row, i in enumerate(reviews):
        place = slice(width - LENGTHS[i], width) if left else slice(LENGTHS[i])
        ids[row, place] = torch.arange(1, LENGTHS[i] + 1) * (i + 3) % 99 + 1
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def logits(model: Any, dropout: ReviewDropout, reviews: list[int], step: int = 0, width: int = 0) -> Any:
    inputs = inputs_of(reviews, width)
    dropout.begin(step, reviews, inputs["attention_mask"])
    return model(**inputs).logits


def gradients(model: Any) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


@pytest.mark.parametrize("make", [distilbert, bert])
def test_a_review_meets_the_same_dropout_in_any_company(make: Any) -> None:
    model = make()
    dropout, everything = ReviewDropout(model, seed=42), list(range(len(LENGTHS)))
    whole = logits(model, dropout, everything, step=7)
    whole.sum().backward()
    wanted = gradients(model)
    for part in ([5, 2], [0], [4, 1, 3]):
        found = logits(model, dropout, part, step=7)
        torch.testing.assert_close(found, whole[part], rtol=1e-5, atol=1e-6)
        found.sum().backward()
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        logits(model, dropout, [3, 5], step=7, width=40), whole[[3, 5]], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("make", [distilbert, bert])
def test_seed_step_and_review_decide_and_the_past_does_not(make: Any) -> None:
    model = make()
    first = logits(model, dropout := ReviewDropout(model, 42), [0, 1], step=7)
    assert not torch.allclose(logits(model, dropout, [0, 1], step=8), first, atol=1e-3)
    assert torch.equal(logits(model, dropout, [0, 1], step=7), first)
    torch.rand(5)
    assert torch.equal(logits(model, ReviewDropout(model, 42), [0, 1], step=7), first)  # as after a resume
    assert not torch.allclose(logits(model, ReviewDropout(model, 43), [0, 1], step=7), first, atol=1e-3)
    # a review with another's tokens
    inputs = inputs_of([1, 1])
    dropout.begin(7, [1, 2], inputs["attention_mask"])
    same_tokens = model(**inputs).logits
    assert not torch.allclose(same_tokens[0], same_tokens[1], atol=1e-3)


def test_without_training_nothing_is_dropped_and_without_dropout_nothing_changes() -> None:
    inputs = inputs_of([0, 3, 5])
    plain = distilbert().eval()
    wanted = plain(**inputs).logits
    ReviewDropout(plain, 42)
    assert torch.equal(plain(**inputs).logits, wanted)
    silent = distilbert(0.0)
    wanted = silent(**inputs).logits
    assert torch.equal(logits(silent, ReviewDropout(silent, 42), [0, 3, 5]), wanted)


def test_the_shortened_last_layer_drops_the_same() -> None:
    model = distilbert()
    dropout = ReviewDropout(model, 42)
    wanted = logits(model, dropout, [0, 2, 4])
    assert skip_unread(model)
    torch.testing.assert_close(logits(model, dropout, [0, 2, 4]), wanted, rtol=1e-5, atol=1e-6)


def test_recomputed_activations_drop_the_same() -> None:
    found = []
    for checkpointing in (False, True):
        model = distilbert()
        dropout = ReviewDropout(model, 42)
        if checkpointing:
            model.activation_checkpointing_enable()
        logits(model, dropout, [0, 1, 2, 3]).sum().backward()
        found.append(gradients(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_as_much_is_dropped_as_asked_for_and_places_have_nothing_in_common(p: float) -> None:
    model = distilbert(p)
    dropout, reviews = ReviewDropout(model, 42), list(range(200))
    dropout.begin(3, reviews, torch.ones(200, 50, dtype=torch.int64))
    a, b = (dropout.keep(place, p, 32, 50).float() for place in (1, 2))
    # 2,048 rows of 32 values: four standard deviations
    assert abs(a.mean() - (1 - p)) < 4 * (p * (1 - p) / (2_048 * 32)) ** 0.5
    others = {
        "module": (a, b),
        "token": (a[:, 1:], a[:, :-1]),
        "review": (a[1:], a[:-1]),
        "value": (a[..., 1:], a[..., :-1]),
    }
    for name, (x, y) in others.items():
        correlation = torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]
        assert abs(correlation) < 0.02, name
    dropout.begin(4, reviews, torch.ones(200, 50, dtype=torch.int64))
    new = dropout.keep(1, p, 32, 50).float()
    assert abs(torch.corrcoef(torch.stack([a.flatten(), new.flatten()]))[0, 1]) < 0.02


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    layer = torch.nn.Sequential(torch.nn.Dropout(0.25))
    dropout = ReviewDropout(layer, 1)
    dropout.begin(0, range(40), torch.ones(40, 60, dtype=torch.int64))
    out = layer(torch.ones(40, 60, 64))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.01)


def test_attention_leaves_out_tokens_as_ordinary_dropout_does_for_one_query() -> None:
    module = torch.nn.Linear(1, 1)
    dropout = ReviewDropout(module, 5)
    _, mask = inputs_of([0, 4]).values()
    dropout.begin(2, [0, 4], mask)
    query, key, value = torch.randn(3, 2, 4, 30, 8)
    allowed = mask.bool()[:, None, None, :].expand(-1, 1, 30, 30)
    out, _ = _attend(module, query, key, value, allowed, dropout=0.4)
    weights = (query @ key.transpose(2, 3) / 8**0.5).masked_fill(~allowed, -torch.inf).softmax(-1)
    keep = dropout.keep(0, 0.4, 4, 30).permute(0, 2, 1)[:, :, None]  # b, heads, 1, tokens
    wanted = (weights * keep / 0.6) @ value
    torch.testing.assert_close(out, wanted.transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_padding_on_the_left_changes_nothing() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.5))
    dropout, found = ReviewDropout(model, 42), []
    for left in (False, True):
        mask = inputs_of([3, 0], left=left)["attention_mask"]
        dropout.begin(1, [3, 0], mask)
        kept = model(torch.ones(2, 30, 16)) > 0
        found.append(kept[mask.bool()])
    assert torch.equal(*found)


def test_other_shapes_keep_torchs_dropout() -> None:
    layer = torch.nn.Sequential(torch.nn.Dropout(0.5))
    dropout = ReviewDropout(layer, 1)
    dropout.begin(0, [0, 1], torch.ones(2, 9, dtype=torch.int64))
    for shape in ((2, 4, 9, 9), (7, 9, 16), (2, 12, 16), (5, 16)):
        torch.manual_seed(3)
        wanted = torch.nn.functional.dropout(torch.ones(shape), 0.5)
        torch.manual_seed(3)
        assert torch.equal(layer(torch.ones(shape)), wanted)
