"""Publishing to and fetching from the Hugging Face Hub."""
