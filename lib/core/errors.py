"""The error that a user can mend."""


class BadInput(ValueError):
    """Something the user gave cannot be used; the message is one sentence that names it and the remedy."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the sentence, not forty lines of frames."""
        return [f"BadInput: {self}"]
