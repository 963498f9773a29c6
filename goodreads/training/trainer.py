"""What train.py adds to the Hugging Face Trainer.

The effective batch size is fixed and the loss is the mean over it, on any number of devices; the order of the
reviews depends on the seed and the epoch alone; each test review is scored once.
"""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer
from transformers.trainer_utils import EvalLoopOutput

from goodreads.common.errors import CheckFailed, InputError
from goodreads.evaluation.metrics import classification_metrics
from goodreads.evaluation.scoring import score_reviews
from goodreads.model.batching import BatchPlan, ShuffledBatches, scoring_sizes, training_sizes
from goodreads.model.packed import choose_layout
from goodreads.model.tokenized import TokenizedReviews


class GenreTrainer(Trainer):
    """A Trainer with this pipeline's batches, loss and evaluation.

    To the Trainer a batch is a process's share of an effective batch: every n-th review of it.
    ``training_step`` takes the share in micro-batches and weighs each review by the effective batch, so that
    without dropout neither the number of processes nor of micro-batches changes the gradient, whatever
    is left for the last batch of an epoch. Evaluation shares out whole micro-batches.

    Args:
        plan: reviews per step and what a device takes at once.
        kwargs: the Trainer's, with ``TokenizedReviews`` as data sets.
    """

    model: PreTrainedModel
    processing_class: PreTrainedTokenizerFast
    train_dataset: TokenizedReviews
    eval_dataset: dict[str, TokenizedReviews]

    def __init__(self, *, plan: BatchPlan, **kwargs: Any) -> None:
        args = kwargs["args"]
        # one process, one GPU: above 1 the Trainer wraps the model in DataParallel; there is no public switch
        args._n_gpu = min(1, args.n_gpu)  # noqa: SLF001
        super().__init__(**kwargs)
        self.plan = plan
        with self.compute_loss_context_manager():
            self.layout = choose_layout(self.model, self.processing_class, self.train_dataset)
        self.sizes = training_sizes(plan, self.train_dataset.lengths)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Shares of effective batches, which are the same on any number of processes."""
        reviews: Any = range(len(self.train_dataset))
        batches = ShuffledBatches(len(reviews), self.plan.effective, self.args.seed)
        loader = torch.utils.data.DataLoader(reviews, batch_sampler=batches, collate_fn=self._share)
        loader.set_epoch = batches.set_epoch  # the Trainer calls it at the start of each epoch
        return loader

    def _share(self, batch: list[int]) -> dict[str, Any]:
        """What this process takes: ``indices``, and the ``weight`` of each review in the loss.

        It is 0 if the batch has fewer reviews than there are processes and this one has none of its own.
        """
        processes = self.accelerator.num_processes
        share = batch[self.accelerator.process_index :: processes]
        # the processes' gradients are averaged, and one without a review has to take part in that too
        return {"indices": share or batch[:1], "weight": processes / len(batch) if share else 0.0}

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the Trainer's way counts all parameters at every step."""
        return 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute the gradients of this process's share of an effective batch.

        Args:
            model: in the wrapper of several processes, if there are several.
            inputs: of ``_share``.
            num_items_in_batch: not used; the share says it.

        Returns:
            The process's part of the loss times the number of processes (the Trainer logs their mean).

        Raises:
            InputError: out of memory; the message names the options to run with.
            CheckFailed: the loss is not finite.
        """
        model.train()
        parts = self.layout.split(self.train_dataset.lengths[inputs["indices"]], self.sizes)
        loss = torch.zeros((), device=self.args.device)
        try:
            for part in parts:
                with nullcontext() if part is parts[-1] else self.accelerator.no_sync(model):
                    loss += self._backward(model, [inputs["indices"][i] for i in part], inputs["weight"])
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
            most, effective = max(map(len, parts)), self.plan.effective
            fewer = f"--per_device_train_batch_size {most // 2 or 1} --effective_batch_size {effective}"
            said = f"out of memory with {most} reviews at once; run again with {fewer}"
            raise InputError(f"{said}, or with a lower --max_length") from error
        if self.args.device.type == "cpu" and self.accelerator.num_processes == 1:
            self._check_finite(loss.item())
        return loss

    def _backward(self, model: torch.nn.Module, indices: list[int], weight: float) -> torch.Tensor:
        """Add the gradients of one micro-batch, and return its loss."""
        inputs = self.layout.inputs(self.train_dataset, indices, self.sizes, self.args.device)
        labels, smoothing = inputs.pop("labels"), self.args.label_smoothing_factor
        with self.compute_loss_context_manager():
            logits = model(**inputs).logits.float()
            total = cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        self.accelerator.backward(total * weight)
        return total.detach() * weight

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            said = f"the loss is {loss} at step {self.state.global_step + 1}: training diverged"
            raise CheckFailed(f"{said} and nothing was saved; lower --learning_rate")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, unless the training loss is not finite: that ends the run, in all processes at once.

        A GPU is not asked for the loss of each step, which would make the host wait for it.
        """
        if "loss" in logs:
            self._check_finite(logs["loss"])
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The reviews themselves, by name or as they are."""
        return self.eval_dataset[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Score each review once, whatever the number of processes, and take the metrics.

        Raises:
            CheckFailed: a logit is not finite.
        """
        reviews: TokenizedReviews = dataloader
        sizes = scoring_sizes(self.args.device.type, reviews.lengths, self.plan.fixed_sizes)
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        logits = score_reviews(self.model, self.layout, sizes, reviews, process, processes)
        found = classification_metrics(logits.argmax(dim=1).numpy(), reviews.labels, logits.shape[1])
        found["loss"] = cross_entropy(logits, torch.from_numpy(reviews.labels)).item()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(logits.numpy(), reviews.labels, metrics, len(reviews))
