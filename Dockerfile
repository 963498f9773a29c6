# An image that holds model/ and the test split in data/, and scores the one on the other without a network.
#   docker build -t goodreads-eval-local .
#   docker run --rm -v "$(pwd)/results:/app/results" goodreads-eval-local
# The target "train" trains instead; docs/containers.md has the commands, and what each step is for.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ---- the same in Dockerfile.eval from here on, so that the images share these layers
FROM ${PYTHON_IMAGE} AS venv
# where PyTorch's wheel comes from: its CPU builds; empty: the index that pip is configured for
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt constraints.txt ./
RUN [ -z "$TORCH_INDEX" ] || pip --python /opt/venv/bin/python install --no-cache-dir --no-compile \
        --no-deps --index-url "$TORCH_INDEX" --constraint constraints.txt torch
# neither evaluation nor training draws figures
RUN grep -v -e '^matplotlib=' -e '^seaborn=' requirements.txt > needed.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile \
        --constraint constraints.txt --requirement needed.txt
COPY docker/slim.py ./
RUN python slim.py /opt/venv \
    && /opt/venv/bin/python -c "import accelerate, datasets, evaluate, scipy.stats, torch, transformers.trainer; \
        import sklearn.feature_extraction.text, sklearn.linear_model, sklearn.metrics"

FROM ${PYTHON_IMAGE} AS runtime
COPY --from=venv /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HF_HOME=/tmp/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin goodreads \
    && install --directory --owner=10001 --group=10001 /app/results /app/.cache
WORKDIR /app
COPY goodreads goodreads
COPY evaluate_model.py predict.py ./
RUN chmod -R u=rwX,go=rX goodreads ./*.py
# ---- the same until here

FROM runtime AS train
LABEL org.opencontainers.image.title="goodreads-train" \
      org.opencontainers.image.description="Fine-tunes a transformer to tell the genre of a Goodreads review" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY train.py ./
COPY recipes recipes
RUN chmod -R u=rwX,go=rX recipes train.py
USER 10001:10001
ENTRYPOINT ["python", "train.py", "--output_dir", "results/model"]

# if a folder is missing, COPY fails with a message about checksums; this stage says what to do
FROM ${PYTHON_IMAGE} AS baked
COPY . /context
WORKDIR /context
RUN ls model/*.safetensors > /dev/null 2>&1 \
    || { echo "model/ holds no trained model: train first, with: python train.py" >&2; exit 1; }; \
    [ -f data/manifest.json ] && [ -f data/test.parquet ] \
    || { echo "data/ holds no test split: make it first, with: python data_loader.py" >&2; exit 1; }; \
    mkdir /baked && cp -R model data /baked && chmod -R u=rwX,go=rX /baked

FROM runtime
LABEL org.opencontainers.image.title="goodreads-eval-local" \
      org.opencontainers.image.description="Scores the bundled genre classifier on the bundled test split" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=baked /baked ./
USER 10001:10001
ENTRYPOINT ["python", "evaluate_model.py"]
