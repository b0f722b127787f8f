"""The one kind of error that this room raises for mistakes of its user."""


class ModelError(ValueError):
    """A model cannot be loaded or used as asked; the message says what to do."""
