"""How fast a model is scored, against the reference's way and transformers' pipeline, in one run.

    python -m benchmarks.evaluation                   # 4 minutes on two CPU cores; on a GPU if there is one
    python -m benchmarks.evaluation --repeats 7       # steadier medians
    python -m benchmarks.evaluation --shape tiny      # whether it runs at all

Every repeat times all ways one after another, and the matrix products that the figures are held against;
medians, and medians of the ratios within a repeat, are reported. The reference's way is Trainer.evaluate on
reviews padded to 512 tokens, 8 at a time, in float32. The last stdout line is one JSON document.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks import encoder
from benchmarks.memory import peak_bytes
from goodreads.common import machine as runtime
from goodreads.common.cli import Parser, positive_int, run
from goodreads.evaluation import scoring

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REVIEWS = {"cpu": (16, 64, 256), "cuda": (256, 1_600, 1_600)}  # reference, pipeline, this project
PIPELINE_BATCH = 16
BARS = {  # of the CPU, on two cores; ratios
    "float32_per_reference": 4.0,
    "bfloat16_per_reference": 9.0,
    "float32_per_pipeline": 3.0,
    "bfloat16_per_pipeline": 6.0,
    "float32_of_matmul": 0.8,
    "bfloat16_of_matmul": 0.6,
}
MEMORY_BAR = 1.5  # GB


def main() -> None:
    """Run the benchmark."""
    options = _options()
    device = runtime.choose_device().type
    if options.cpu_time:
        encoder.Clock.use_cpu_time()
    if options.memory_of:
        return measure_memory(options)
    if options.tokens:
        vars(scoring)["scoring_tokens"] = lambda device_type: options.tokens
    counts = options.reviews or REVIEWS[device]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        encoder.save_model(options.shape, folder)
        lengths, source = encoder.review_lengths(counts[2])
        ways = Ways(folder, options.shape, lengths, counts, device)
        ways.warm_up()
        runs = []
        for repeat in range(options.repeats):
            runs.append(ways.repeat())
            encoder.note("repeat %d of %d: %s", repeat + 1, options.repeats, _short(runs[-1]))
        figures = encoder.summarize(runs)
        figures |= peak_memory(folder, options.shape)
    bars = BARS if device == "cpu" else {}
    rows = [(name, value, f"bar {bars[name]}" if name in bars else "") for name, value in figures.items()]
    title = f"evaluation, {options.shape} shape, {options.repeats} repeats, lengths: {source}"
    document = {"benchmark": "evaluation", "device": device, "shape": options.shape, "lengths": source}
    encoder.report(title, rows, document | {"bars": bars | {"peak_gb": MEMORY_BAR}, "runs": runs} | figures)


class Ways:
    """The ways to score, ready to be timed."""

    def __init__(
        self, folder: Path, shape: str, lengths: list[int], counts: tuple[int, int, int], device: str
    ) -> None:
        from transformers import Trainer, TrainingArguments, logging, pipeline

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.shape, self.lengths, self.counts, self.device = shape, lengths, counts, device
        self.texts = encoder.texts_of(lengths, shape)
        self.models = {name: scoring.load_classifier(folder, name, device) for name in DTYPES}
        plain, tokenizer = encoder.load_plain(folder, device)
        padded = tokenizer(
            self.texts[: counts[0]], padding="max_length", truncation=True, max_length=encoder.MAX_LENGTH
        )
        rows = [{"input_ids": a, "attention_mask": b, "labels": 0} for a, b in zip(*padded.values())]
        arguments = TrainingArguments(
            output_dir=str(folder / "none"),
            per_device_eval_batch_size=8,
            report_to=[],
            disable_tqdm=True,
            use_cpu=device == "cpu",
        )
        trainer = Trainer(model=plain, args=arguments, eval_dataset=rows)
        self.reference = trainer.evaluate
        pipe = pipeline("text-classification", model=plain, tokenizer=tokenizer, device=device)
        mixed = encoder.texts_of(encoder.typical_draw(lengths, counts[1], PIPELINE_BATCH), shape)
        self.pipeline = partial(pipe, mixed, batch_size=PIPELINE_BATCH, truncation=True)

    def warm_up(self) -> None:
        """A few reviews each way, so that nothing is done for the first time while it is timed."""
        for model in self.models.values():
            scoring.score(model, self.texts[:8])

    def repeat(self) -> dict[str, float]:
        """All ways once: reviews per second, their ratios, and the share of the matrix products' rate."""
        with contextlib.redirect_stdout(io.StringIO()):  # Trainer.evaluate prints its metrics
            rates = {"reference": self.counts[0] / encoder.seconds(self.reference, self.device)}
        rates["pipeline"] = self.counts[1] / encoder.seconds(self.pipeline, self.device)
        figures: dict[str, float] = {}
        for name, model in self.models.items():
            # before and after: the machine's clock and its other users change meanwhile
            limits = [encoder.matmul_rate(DTYPES[name], self.device)]
            took = encoder.seconds(partial(scoring.score, model, self.texts), self.device)
            limits.append(encoder.matmul_rate(DTYPES[name], self.device))
            limit = sum(limits) / 2
            rates[name] = len(self.texts) / took
            flops = encoder.forward_flops(self.shape, self.lengths)
            figures |= {f"{name}_matmul_gflops": limit / 1e9, f"{name}_of_matmul": flops / took / limit}
        for name in DTYPES:
            for other in ("reference", "pipeline"):
                figures[f"{name}_per_{other}"] = rates[name] / rates[other]
        return {f"{name}_reviews_per_second": rate for name, rate in rates.items()} | figures


def peak_memory(folder: Path, shape: str) -> dict[str, float]:
    """Gigabytes resident at most while the longest reviews are scored in float32, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--memory-of", str(folder), "--shape", shape]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"peak_gb": float(result.stdout)}


def measure_memory(options: argparse.Namespace) -> None:
    """Score 1,600 reviews' worth of text, of which the longest are scored, and print the peak."""
    lengths, _ = encoder.review_lengths(1_600)
    texts = encoder.texts_of(lengths, options.shape)  # all are held, as by evaluate_model.py
    model = scoring.load_classifier(options.memory_of, "float32", "cpu")
    scoring.score(model, sorted(texts, key=len)[-32:])
    print(peak_bytes() / 1e9)


def _short(run: dict[str, float]) -> str:
    return ", ".join(
        f"{k.removesuffix('_reviews_per_second')} {v:.1f}/s" for k, v in run.items() if "_second" in k
    )


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="benchmarks.evaluation")
    parser.add_argument("--shape", choices=encoder.SHAPES, default="base", help="of the model")
    parser.add_argument(
        "--reviews",
        type=positive_int,
        nargs=3,
        metavar="N",
        help="scored the reference's way, by the pipeline and by this project; by the device if not given",
    )
    parser.add_argument(
        "--tokens", type=positive_int, help="scored at once by this project, other than its own"
    )
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    encoder.add_common_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main, "benchmarks.evaluation")
