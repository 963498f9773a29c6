"""Publishing to and fetching from the Hugging Face Hub."""

from goodreads.common.errors import InputError

try:
    import huggingface_hub.constants  # noqa: F401  (reads the HF_* environment variables)
except ValueError as error:
    raise InputError(
        f"an HF_... environment variable, such as HF_ENDPOINT, has a value that cannot be read: {error}"
    ) from error
