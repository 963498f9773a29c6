"""The three ways a script ends early, each with one line for the user."""


class InputError(Exception):
    """Bad input or usage: the message is one line that says what, where and what to do (exit 2)."""


class CheckFailed(Exception):
    """A check of results failed: the message is one line that says which (exit 1)."""


class Interrupted(Exception):
    """Stopped by a signal after saving what could be saved (exit 128 + ``signum``)."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
