"""The three ways a script ends early; each message is one line that says what, where and what to do."""


class Ended(Exception):
    """Why the script ends; ``status`` is its exit status."""

    status = 2


class InputError(Ended):
    """Bad input or usage (exit status 2)."""


class CheckFailed(Ended):
    """A check of results failed (exit status 1)."""

    status = 1


class Interrupted(Ended):
    """A signal stopped the run after it saved what it could (exit status 128 + ``signum``)."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.status = 128 + signum
