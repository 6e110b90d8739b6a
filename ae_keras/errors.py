"""The package's errors: each names what is wrong, why, and the way out."""


class AeKerasError(Exception):
    """Base of every error this package raises.

    Args:
        what: the file, folder or argument that is at fault.
        cause: what is wrong with it.
        way_out: what to do about it.
    """

    def __init__(self, what, cause, way_out):
        super().__init__(what, cause, way_out)
        self.what, self.cause, self.way_out = str(what), str(cause), str(way_out)

    def __str__(self):
        return f"{self.what}: {self.cause}. {self.way_out}"


class ArgumentError(AeKerasError, ValueError):
    """An argument has a value that cannot work."""


class DataError(AeKerasError):
    """A dataset is missing, damaged, or not what its name says."""


class CacheError(AeKerasError):
    """A saved model cannot be used or written."""


class DamagedModelError(CacheError):
    """A saved model is truncated, altered, of another origin, or holds impossible values."""


class TrainingRequiredError(CacheError):
    """`AE_KERAS_CACHE=require` is set, and no saved model fits."""


class TrainingDivergedError(AeKerasError):
    """Training ended in NaN or infinity; nothing was saved."""
