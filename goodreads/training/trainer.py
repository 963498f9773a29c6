"""What train.py adds to the Hugging Face Trainer.

The effective batch size is fixed and the loss is the mean over it, whatever the devices; batches come in
an order that depends on the seed and the epoch alone; a signal saves a checkpoint; a checkpoint counts
only once it is complete.
"""

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from goodreads.common.errors import InputError
from goodreads.common.files import read_json, write_json
from goodreads.common.progress import log
from goodreads.model.batching import LengthGroupedBatches, longest_first, scoring_tokens, token_budget_batches
from goodreads.model.first_token import skip_unread
from goodreads.model.tokenized import Padding
from goodreads.training.dropout import ReviewDropout
from goodreads.training.options import BatchPlan

SDPA = ("distilbert", "sdpa")  # a model that takes a mask for sdpa as it is
COMPLETE = "complete.json"  # written last into a checkpoint: without it the checkpoint is not used


def square_mask(mask: torch.Tensor) -> torch.Tensor:
    """What transformers makes of a mask of shape (b, n) for sdpa: booleans of shape (b, 1, n, n).

    It would look first whether there is padding at all, and the host would wait for the GPU at every step.
    """
    length = mask.shape[1]
    return mask.bool()[:, None, None, :].expand(-1, 1, length, length)


def mean_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: int | None = None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of a micro-batch as its part of the mean over the whole effective batch.

    Args:
        outputs: the model's, with ``logits`` of shape (b, classes).
        labels: label ids, shape (b,); -100 counts for nothing.
        num_items_in_batch: reviews in the effective batch over all devices and micro-batches; None for the
            micro-batch's own mean.
        label_smoothing: as in torch's cross_entropy.

    Returns:
        A scalar. The Trainer's default divides by the number of accumulation steps instead, which weighs a
        short last micro-batch too high.
    """
    loss = torch.nn.functional.cross_entropy(
        outputs.logits.float(),
        labels,
        reduction="mean" if num_items_in_batch is None else "sum",
        label_smoothing=label_smoothing,
    )
    return loss if num_items_in_batch is None else loss / num_items_in_batch


class GenreTrainer(Trainer):
    """A Trainer with this pipeline's batches, loss, evaluation and complete-or-ignored checkpoints.

    To the Trainer a batch is a process's share of an effective batch: every n-th review of it, so that the
    lengths are the same everywhere. ``training_step`` takes the share in micro-batches and divides by the
    reviews of the effective batch, and dropout is each review's own, so that neither the number of processes
    nor of micro-batches changes the gradient, whatever is left for the last batch of an epoch. Evaluation
    shares out whole batches.

    Args:
        plan: reviews per step and what a device takes at once.
        padding: of the tokenizer.
        fingerprint: what a checkpoint must agree with to be resumed.
        kwargs: the Trainer's, with ``TokenizedReviews`` as data sets.
    """

    def __init__(
        self, *, plan: BatchPlan, padding: Padding, fingerprint: dict[str, Any], **kwargs: Any
    ) -> None:
        kwargs["args"]._n_gpu = min(1, kwargs["args"].n_gpu)  # the Trainer wraps in DataParallel above 1
        loss = partial(mean_loss, label_smoothing=kwargs["args"].label_smoothing_factor)
        super().__init__(compute_loss_func=loss, **kwargs)
        skip_unread(self.model)
        self.dropout = ReviewDropout(self.model, self.args.seed)
        self.order = LengthGroupedBatches(self.train_dataset.lengths, plan.effective, self.args.seed)
        self.plan, self.padding, self.fingerprint = plan, padding, fingerprint
        self.tokens = plan.tokens  # a micro-batch's limit, lowered when the memory does not suffice
        self._at_work = (0, 0, False)  # reviews and width of the micro-batch, and whether it is the last
        self._rehearsed = self.accelerator.num_processes == 1

    def get_train_dataloader(self) -> Any:
        """Batches of indices; the same effective batches on any number of processes."""
        everything: Any = range(len(self.train_dataset))
        return torch.utils.data.DataLoader(everything, batch_sampler=self.order, collate_fn=self._share)

    def _share(self, batch: list[int]) -> dict[str, Any]:
        share = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        # with nothing to do a process still takes part in the exchange of gradients: with a review that
        # counts for nothing
        return {"share": share or batch[:1], "counts": bool(share), "reviews": len(batch)}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> int | None:
        return batch_samples[0]["reviews"] if batch_samples else None  # the Trainer's would wait for the GPU

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer's way counts parameters at every step."""
        return 0

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: int | None = None
    ) -> torch.Tensor:
        """Gradients of one effective batch; out of memory, the same again in smaller micro-batches.

        Returns:
            The process's part of the loss times the number of processes (the Trainer logs their mean).

        Raises:
            InputError: not even one review fits into memory.
        """
        model.train()
        if not self._rehearsed:
            self._rehearse()
        while True:
            try:
                return self._gradients(model, **inputs)
            except RuntimeError as error:
                self._split_further(error)
            model.zero_grad()  # not in the except block: the error holds on to the tensors
            clear_device_cache(garbage_collection=True)

    def _gradients(self, model: Any, share: list[int], counts: bool, reviews: int) -> torch.Tensor:
        lengths = [self.train_dataset.lengths[i] for i in share]
        parts = token_budget_batches(lengths, self.tokens, self.plan.per_device)
        loss = torch.zeros((), device=self.args.device)
        for number, part in enumerate(parts, 1):
            self._at_work = (len(part), lengths[part[0]], number == len(parts))
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                loss += self._backward(model, [share[i] for i in part], counts, reviews)
        return loss

    def _backward(self, model: Any, indices: list[int], counts: bool, reviews: int) -> torch.Tensor:
        inputs = self.train_dataset.batch(indices, self.padding, self.args.device)
        if not counts:
            inputs["labels"].fill_(-100)
        self.dropout.begin(self.state.global_step, indices, inputs["attention_mask"])
        config = self.model.config
        if self.args.device.type == "cuda" and (config.model_type, config._attn_implementation) == SDPA:
            inputs["attention_mask"] = square_mask(inputs["attention_mask"])
        with self.compute_loss_context_manager():
            loss: torch.Tensor = self.compute_loss(model, inputs, num_items_in_batch=reviews)
        self.accelerator.backward(loss)
        return loss.detach()

    def _split_further(self, error: RuntimeError) -> None:
        if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise error
        reviews, width, last = self._at_work
        if reviews == 1:
            raise InputError(
                f"out of memory with one review of {width} tokens; lower --max_length or take a smaller model"
            ) from error
        if last and self._rehearsed and self.accelerator.num_processes > 1:
            raise InputError(  # others wait for this process's gradients: it cannot begin anew
                f"out of memory with {reviews} reviews of {width} tokens; run again with "
                f"--effective_batch_size {self.plan.effective} --per_device_train_batch_size {reviews // 2}"
            ) from error
        self.tokens = reviews * width // 2
        log.error(  # on every process
            "out of memory with %d reviews of %d tokens: from now on at most %s tokens at a time; "
            "the effective batch stays %d reviews",
            reviews,
            width,
            f"{self.tokens:,}",
            self.plan.effective,
        )

    def _rehearse(self) -> None:
        """Before several processes start together, agree on a micro-batch that fits into each memory.

        It takes the longest reviews, with room left for Adam's two averages, which come with the first step.
        """
        lengths = self.train_dataset.lengths
        longest = longest_first(lengths)[: self.plan.per_device]
        parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        while True:
            part = token_budget_batches([lengths[i] for i in longest], self.tokens)[0]
            self._at_work = (len(part), lengths[longest[0]], False)
            try:
                room = torch.empty(2 * parameters, device=self.args.device)
                self._backward(self.model, [longest[i] for i in part], False, 1)
                break
            except RuntimeError as error:
                self._split_further(error)
            self.model.zero_grad()
            clear_device_cache(garbage_collection=True)
        del room
        self.model.zero_grad()
        limit = torch.tensor(self.tokens or torch.iinfo(torch.int64).max, device=self.args.device)
        torch.distributed.all_reduce(limit, torch.distributed.ReduceOp.MIN)
        if self.tokens or limit < torch.iinfo(torch.int64).max:
            self.tokens = int(limit)
        self._rehearsed = True

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The reviews themselves, by name or as they are."""
        return self.eval_dataset[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Score each review once, whatever the number of processes, and take the metrics.

        The batches do not depend on the processes either; each scores every n-th one, and their logits meet
        in a sum with zeros, which changes no bit.
        """
        from goodreads.evaluation.metrics import (
            classification_metrics,  # 2 s, which a run without evaluation saves
        )

        reviews, self.callback_handler.eval_dataloader = dataloader, None
        model = self.model.eval()
        logits = torch.zeros(len(reviews), model.config.num_labels, device=self.args.device)
        batches = token_budget_batches(reviews.lengths, scoring_tokens(self.args.device.type))
        with torch.inference_mode():
            for part in batches[self.accelerator.process_index :: self.accelerator.num_processes]:
                inputs = reviews.batch(part, self.padding, self.args.device)
                del inputs["labels"]
                logits[part] = model(**inputs).logits.float()
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(logits)
        logits = logits.cpu()
        found = classification_metrics(logits.argmax(dim=1).numpy(), reviews.labels, model.config.num_labels)
        found["loss"] = torch.nn.functional.cross_entropy(logits, torch.from_numpy(reviews.labels)).item()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(logits.numpy(), reviews.labels, metrics, len(reviews))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            write_json(folder / COMPLETE, self.fingerprint)


def last_checkpoint(folder: Path, fingerprint: dict[str, Any]) -> Path:
    """The newest complete checkpoint below ``folder``; incomplete ones are named and passed over.

    Raises:
        InputError: there is none, or it belongs to a run with other settings.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found and not (found[-1] / COMPLETE).is_file():
        log.warning("%s is incomplete and passed over", found.pop())
    if not found:
        raise InputError(f"--resume: no complete checkpoint in {folder}; run without --resume")
    saved = read_json(found[-1] / COMPLETE, "a run without --resume")
    changed = [f"{k} was {saved.get(k)!r}, is {v!r}" for k, v in fingerprint.items() if saved.get(k) != v]
    if changed:
        raise InputError(f"--resume: {found[-1]} is of another run: {'; '.join(changed)}; drop --resume")
    return found[-1]


def discard_checkpoints(folder: Path) -> None:
    """Remove what an earlier run left in its checkpoint folder, saying so."""
    if folder.exists():
        log.info("removing the checkpoints in %s", folder)
        shutil.rmtree(folder)
