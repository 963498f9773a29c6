"""Whether another engine scores reviews faster than torch in bfloat16, and as torch does, in one run.

    pip install openvino onnxruntime onnx onnxscript       # needed by this benchmark alone
    python -m benchmarks.engines --cpu-time                # random weights in DistilBERT's size: speed
    python -m benchmarks.engines --model model --data-dir data    # a fine-tuned model: agreement too

One thread, all engines one after another in every repeat; medians, and medians of the ratios to torch's
bfloat16 within a repeat. Agreement is the share of reviews whose predicted genre is torch's in float32; of
random weights it says nothing. The last stdout line is one JSON document.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import encoder
from goodreads.common.cli import Parser, positive_int, run
from goodreads.common.errors import InputError
from goodreads.data.split_store import read_split
from goodreads.evaluation import scoring
from goodreads.model.batching import token_budget_batches
from goodreads.model.tokenized import Padding, tokenize

TOKENS = 512  # per batch
FASTER, SAME = 1.3, 0.995  # the bar for an --engine

Engine = Callable[[torch.Tensor, torch.Tensor], Any]  # token ids and mask to logits


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(1)
    if options.cpu_time:
        encoder.Clock.use_cpu_time()
    with tempfile.TemporaryDirectory() as scratch:
        folder, texts = _input(options, Path(scratch))
        batches = _batches(folder, texts)
        engines = _engines(folder, Path(scratch), batches[len(batches) // 2][1:])
        runs, logits = [], dict[str, NDArray[np.float32]]()
        for _ in range(options.repeats):
            times = {}
            for name, engine in engines.items():
                logits[name], times[name] = _score(engine, batches, len(texts))
                encoder.note("%s: %.1f reviews/s", name, len(texts) / times[name])
            runs.append(
                {f"{name} reviews/s": len(texts) / seconds for name, seconds in times.items()}
                | {f"{name} x torch bfloat16": times["torch bfloat16"] / s for name, s in times.items()}
            )
    figures = encoder.summarize(runs)
    truth = logits["torch float32"].argmax(1)
    figures |= {
        f"{name} agreement": float((found.argmax(1) == truth).mean()) for name, found in logits.items()
    }
    rows = [(name, value, _bar(name)) for name, value in figures.items()]
    encoder.report(f"{len(texts)} reviews, {options.repeats} repeats", rows, figures)


def _bar(name: str) -> str:
    if "x torch" in name:
        return f"bar {FASTER}"
    return f"bar {SAME}" if "agreement" in name else ""


def _input(options: argparse.Namespace, scratch: Path) -> tuple[Path, list[str]]:
    if options.model:
        return options.model, read_split(options.data_dir, "test").texts[: options.reviews]
    encoder.save_model("base", scratch / "model")
    return scratch / "model", encoder.texts_of(encoder.review_lengths(options.reviews)[0], "base")


def _batches(folder: Path, texts: list[str]) -> list[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Indices, token ids and mask of each batch, as goodreads.evaluation.scoring makes them."""
    classifier = scoring.load_classifier(folder, "float32", "cpu")
    reviews = tokenize(classifier.tokenizer, texts, [0] * len(texts), classifier.max_length, show=False)
    made = []
    for part in token_budget_batches(reviews.lengths, TOKENS):
        inputs = reviews.batch(part, Padding.of(classifier.tokenizer), "cpu")
        made.append((part, inputs["input_ids"], inputs["attention_mask"]))
    return made


def _score(engine: Engine, batches: Any, reviews: int) -> tuple[NDArray[np.float32], float]:
    logits: dict[int, Any] = {}

    def work() -> None:
        for part, ids, mask in batches:
            logits.update(zip(part, engine(ids, mask), strict=True))

    seconds = encoder.seconds(work, "cpu")
    return np.stack([logits[i] for i in range(reviews)]), seconds


def _engines(folder: Path, scratch: Path, example: Any) -> dict[str, Engine]:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import openvino  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} is missing: pip install openvino onnxruntime onnx onnxscript"
        ) from error
    engines = {f"torch {dtype}": _torch(folder, dtype) for dtype in ("float32", "bfloat16")}
    for hint in ("f32", "bf16"):
        engines[f"OpenVINO {hint}"] = _openvino(folder, hint, example)
    for per_channel in (False, True):
        name = "ONNX Runtime int8, a scale per " + ("channel" if per_channel else "tensor")
        engines[name] = _onnx_int8(folder, scratch, per_channel, example)
    return engines


def _torch(folder: Path, dtype: str) -> Engine:
    model = scoring.load_classifier(folder, dtype, "cpu").model

    def engine(ids: torch.Tensor, mask: torch.Tensor) -> Any:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask).logits.float().numpy()

    return engine


def _openvino(folder: Path, hint: str, example: Any) -> Engine:
    import openvino

    model, _ = encoder.load_plain(folder, "cpu")
    inputs = dict(zip(("input_ids", "attention_mask"), example, strict=True))
    with torch.no_grad():
        converted = openvino.convert_model(model.eval(), example_input=inputs)
    one_thread = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1"}
    compiled = openvino.Core().compile_model(converted, "CPU", one_thread)
    return lambda ids, mask: compiled({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        return self.model(input_ids=ids, attention_mask=mask).logits


def _onnx_int8(folder: Path, scratch: Path, per_channel: bool, example: Any) -> Engine:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, small = scratch / "plain.onnx", scratch / f"int8-{per_channel}.onnx"
    if not plain.exists():
        model, _ = encoder.load_plain(folder, "cpu")
        model.config._attn_implementation = "eager"  # the exporter takes no other with lengths left open
        sizes = {0: torch.export.Dim("reviews", max=TOKENS), 1: torch.export.Dim("tokens", min=2, max=TOKENS)}
        torch.onnx.export(
            _Logits(model.eval()), tuple(example), plain, dynamo=True, dynamic_shapes=(sizes, sizes),
            input_names=["ids", "mask"], external_data=False, verbose=False,
        )  # fmt: skip
    quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=per_channel)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    return partial(_run_onnx, session)


def _run_onnx(session: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
    return session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})[0]


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="benchmarks.engines")
    parser.add_argument("--model", type=Path, help="fine-tuned model folder; random weights if not given")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="whose test split --model scores")
    parser.add_argument("--reviews", type=positive_int, default=40, help="reviews scored")
    encoder.add_common_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main, "benchmarks.engines")
