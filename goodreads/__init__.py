"""What two or more of the top-level scripts share.

labels       the eight genres, their order when sampling, label maps and how they are matched
cli          option parser, one-line errors and exit codes, log lines and progress bars
files        atomic writes, hashes, JSON
sample       the generated stand-in for the UCSD files (``--source sample``)
source       where the gzip files come from and how their lines are streamed
splits       the train and test split on disk, and the manifest that vouches for it
runtime      devices, versions, time estimates
encoding     reviews to token ids, and batches with little padding
tiny_model   a small DistilBERT and tokenizer trained from scratch
training     what train.py adds to the Hugging Face Trainer
scoring      a model folder to logits
metrics      logits to figures with confidence intervals
"""
