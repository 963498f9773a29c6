"""What two or more of the top-level scripts share, and the parts that a script hands over.

cli            option parser, one-line errors and exit codes, log lines and progress bars
files          atomic writes, hashes, JSON
labels         the eight genres, their order when sampling, label maps and how they are matched
source         where the gzip files come from and how their lines are streamed
download       an HTTP body that survives broken connections
cache          the compressed beginning of each file, kept between runs
reading        the genres side by side, one thread each
reviews        a line to a review
protocol       what decides a split: parameters, the draw, the rows
sampling       which lines of a stream are kept
shards         all reviews but the test split's, as Parquet shards
sample         the generated stand-in for the UCSD files (``--source sample``)
splits         the train and test split on disk, and the manifest that vouches for it
data_report    duplicates, leaks and empty texts of a split
arguments      train.py's command line: recipes, TrainingArguments, the batch plan
encoding       reviews to token ids, and batches with little padding
modelling      the tokenizer and classifier to fine-tune
tiny_model     a small DistilBERT and tokenizer trained from scratch
model_folder   the files of a saved model
training       what train.py adds to the Hugging Face Trainer
training_log   training_log.json
scoring        a model folder to logits
metrics        logits to figures with confidence intervals
comparison     two evaluations held against each other
hub            the Hub's client with retries, one-line errors and hash checks
card           the model card and the split manifest that are published
runtime        devices, versions, time estimates
sigterm        a prompt end on SIGTERM, as PID 1 of a container too
container      what the Hub image runs
"""
