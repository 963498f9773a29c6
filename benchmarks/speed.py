"""How fast reviews are scored and a model is fine-tuned, against the reference's way.

    python -m benchmarks.speed                # 5 minutes on two CPU cores
    python -m benchmarks.speed --cpu-time     # one thread and its processor time: on a machine in other use

Each repeat runs all ways one after another; medians of the rates and of the ratios within a repeat are
reported. The reference's way is the Trainer on reviews padded to 512 tokens, in float32: 8 at a time when
scoring, batches of 16 in training. The model has distilbert-base-cased's shape and random weights; lengths
are those of real reviews if GOODREADS_REAL names a folder with some, else log-normal. The last line is JSON.
"""

import contextlib
import gzip
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from goodreads.common import machine
from goodreads.common.cli import Parser, positive_int, run
from goodreads.common.progress import log
from goodreads.data.genres import GENRES
from goodreads.evaluation.scoring import score
from goodreads.model.batching import plan_batches
from goodreads.model.checkpoint import Classifier, load_classifier
from goodreads.model.tokenized import TokenizedReviews
from goodreads.training.trainer import GenreTrainer

LOG_NORMAL = (4.14, 1.2)  # of the tokens of genuine UCSD reviews, cut at 512: median 63, mean 118
LONGEST = 512
BASE = {"dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12, "vocab_size": 28_996}
TINY = {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "vocab_size": 1_000}
BARS = {"float32_to_reference": 5.0, "bfloat16_to_reference": 9.0, "training_to_reference": 7.0}


def write_model(shape: dict[str, int], folder: Path) -> Path:
    """A classifier of eight genres with random weights, and a tokenizer of the words w0, w1 and so on."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(shape["vocab_size"] - 4))]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=LONGEST, model_input_names=["input_ids"], **names
    ).save_pretrained(folder)
    sizes: dict[str, Any] = shape
    config = transformers.DistilBertConfig(**sizes, pad_token_id=0, id2label=dict(enumerate(sorted(GENRES))))
    transformers.set_seed(0)
    transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)
    return folder


def review_lengths(n: int) -> Any:
    """Tokens of n reviews, at even quantiles and shuffled, so that few stand for all."""
    if real := os.environ.get("GOODREADS_REAL"):
        texts = []
        for genre in ("children", "comics_graphic"):  # genuine UCSD reviews
            (path,) = Path(real, "goodreads").glob(f"*{genre}.json.gz")
            with gzip.open(path, "rt", encoding="utf-8") as file:
                texts += [json.loads(line)["review_text"] for line in file]
        tokenizer = transformers.AutoTokenizer.from_pretrained(Path(real, "models", "distil-mini"))
        drawn = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]]
    else:
        drawn = np.random.default_rng(0).lognormal(*LOG_NORMAL, 100_000).tolist()
    lengths = np.clip(np.quantile(drawn, (np.arange(n) + 0.5) / n).round(), 3, LONGEST).astype(int)
    return np.random.default_rng(1).permutation(lengths)


def texts_of(lengths: Any, vocabulary: int) -> list[str]:
    """Texts of that many tokens each, [CLS] and [SEP] included."""
    rng = np.random.default_rng(2)
    return [" ".join(f"w{i}" for i in rng.integers(0, vocabulary - 4, n - 2)) for n in lengths]


def random_reviews(lengths: Any, vocabulary: int) -> TokenizedReviews:
    """Reviews of random tokens."""
    rng = np.random.default_rng(4)
    ids = pa.array([rng.integers(5, vocabulary, n) for n in lengths], pa.list_(pa.int32()))
    return TokenizedReviews(pa.table({"input_ids": ids, "label": np.arange(len(lengths)) % 8}))


def padded_rows(n: int, vocabulary: int) -> list[dict[str, Any]]:
    """n reviews of 512 tokens as the reference's data set has them."""
    ids = np.random.default_rng(3).integers(5, vocabulary, (n, LONGEST))
    return [
        {"input_ids": row, "attention_mask": np.ones_like(row), "labels": i % 8} for i, row in enumerate(ids)
    ]


class Clock(transformers.TrainerCallback):
    """Seconds between two steps of a training run, with the device's work done."""

    now = staticmethod(time.perf_counter)

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.seconds = first, last, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start, after ``first`` steps."""
        if state.global_step == self.first:
            self.seconds = -self._time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop, after ``last`` steps."""
        if state.global_step == self.last:
            self.seconds += self._time()

    def _time(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.now()


def seconds(work: Callable[[], Any]) -> float:
    """Time that ``work`` takes."""
    clock = Clock(0, 0)
    start = clock._time()
    work()
    return clock._time() - start


def arguments(device: str, **options: Any) -> transformers.TrainingArguments:
    """Of a run without files and logs."""
    common: dict[str, Any] = {
        "output_dir": tempfile.gettempdir(),
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    return transformers.TrainingArguments(**common, logging_strategy="no", use_cpu=device == "cpu", **options)


def train_reference(model: Any, vocabulary: int, batch: int, first: int, last: int) -> float:
    """Seconds per step the reference's way, the first steps left out."""
    clock = Clock(first, last)
    device = machine.choose_device().type
    tf32 = {"tf32": False} if device == "cuda" else {}
    options = arguments(device, max_steps=last, per_device_train_batch_size=batch, **tf32)
    trainer = transformers.Trainer(
        model=model, args=options, train_dataset=padded_rows(batch, vocabulary), callbacks=[clock]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return clock.seconds / (last - first)


def own_trainer(
    classifier: Classifier, reviews: TokenizedReviews, batch: int, device: str, **options: Any
) -> Any:
    """train.py's Trainer; ``device`` is the one that its batches are planned for."""
    return GenreTrainer(
        model=classifier.model,
        args=arguments(machine.choose_device().type, logging_nan_inf_filter=False, **options),
        train_dataset=reviews,
        processing_class=classifier.tokenizer,
        plan=plan_batches(batch, None, 1, device),
    )


def one_repeat(folder: Path, shape: dict[str, int], counts: tuple[int, int, int]) -> dict[str, float]:
    """Reviews per second of all ways; ``counts`` are the reviews scored each way, and the steps trained."""
    vocabulary, rates = shape["vocab_size"], {}
    lengths = review_lengths(counts[1])
    for dtype in ("float32", "bfloat16"):
        classifier = load_classifier(folder, dtype, "cpu")
        texts = texts_of(lengths, vocabulary)
        score(classifier, texts[:8])
        rates[dtype] = len(texts) / seconds(partial(score, classifier, texts))
    classifier = load_classifier(folder, "float32", "cpu")
    batches = random_reviews(review_lengths(800), vocabulary)
    trainer = own_trainer(classifier, batches, 16, "cpu", max_steps=1 + counts[2])
    clock = Clock(1, 1 + counts[2])
    trainer.add_callback(clock)
    loader = trainer.get_train_dataloader()
    trained = [i for share in list(loader)[1 : 1 + counts[2]] for i in share["indices"]]
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
        # as if the timed batches had held as many tokens as others do
        share = batches.lengths[trained].mean() / batches.lengths.mean()
        rates["training"] = float(16 * counts[2] * share / clock.seconds)
        plain = load_classifier(folder, "float32", "cpu").model
        options = arguments("cpu", per_device_eval_batch_size=8)
        reference = transformers.Trainer(plain, options, eval_dataset=padded_rows(counts[0], vocabulary))
        rates["reference"] = counts[0] / seconds(reference.evaluate)
        rates["reference_training"] = 16 / train_reference(plain, vocabulary, 16, 1, 2)
    ratios = {f"{name}_to_reference": rates[name] / rates["reference"] for name in ("float32", "bfloat16")}
    ratios["training_to_reference"] = rates["training"] / rates["reference_training"]
    return {f"{name}_reviews_per_second": rate for name, rate in rates.items()} | ratios


def report(title: str, figures: dict[str, Any], bars: dict[str, float]) -> None:
    """Print a table, then one line of JSON."""
    print(f"{title}; torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for name, value in figures.items():
        shown = f"{value:>12,.4g}" if isinstance(value, float | int) else f"{value:>12}"
        print(f"{name:<44}{shown}   {f'bar {bars[name]:g}' if name in bars else ''}")
    print(json.dumps({"benchmark": title, "bars": bars, **figures}))


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__, prog="benchmarks.speed")
    parser.add_argument("--repeats", type=positive_int, default=3, help="times that all ways are run")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: whether it runs at all")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and its processor time")
    options = parser.parse_args()
    machine.choose_device(use_cpu=True)
    if options.cpu_time:
        torch.set_num_threads(1)
        Clock.now = staticmethod(time.thread_time)
    shape, counts = (TINY, (2, 16, 2)) if options.tiny else (BASE, (16, 256, 8))
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        write_model(shape, Path(folder))
        runs = []
        for number in range(options.repeats):
            runs.append(one_repeat(Path(folder), shape, counts))
            log.info("repeat %d of %d: %s", number + 1, options.repeats, runs[-1])
    figures = {name: median(repeat[name] for repeat in runs) for name in runs[0]}
    report("speed on a CPU", figures, BARS)


if __name__ == "__main__":
    run(main, "benchmarks.speed")
