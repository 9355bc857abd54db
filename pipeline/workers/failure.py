"""What stops a run although its input was good."""


class RunFailedError(RuntimeError):
    """The run cannot go on now; the message says what is stored and what to do."""
