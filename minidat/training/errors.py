"""Why a run does not start or go on."""


class TrainingError(RuntimeError):
    """A run cannot start, or cannot go on."""


class Interrupted(Exception):
    """The user stopped the run; its checkpoint is on disk."""
