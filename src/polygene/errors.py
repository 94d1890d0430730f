"""Every error a user can cause, each with a message that says what is wrong, what was given and what to do."""


class PolyGeneError(ValueError):
    """The root of them all; the command line prints its message and exits with code 2."""


class GeneError(PolyGeneError):
    """The genes of a file cannot be used: numbers for names, another species, too few of the panel."""


class ScaleError(PolyGeneError):
    """The expression values are neither counts nor log1p values: negative, NaN, infinite."""


class PhenotypeError(PolyGeneError):
    """A phenotype or its column is missing, or a label is not in the vocabulary."""


class CorpusError(PolyGeneError):
    """A corpus folder is broken, truncated, or was made with another tokenizer."""


class RecipeError(PolyGeneError):
    """A recipe holds an unknown key or a wrong value."""


class CheckpointError(PolyGeneError):
    """A checkpoint folder is incomplete or was altered."""


class DataError(PolyGeneError):
    """The data are no AnnData, are empty, or lack what the task needs, such as donors."""


class RunEndedError(PolyGeneError):
    """Another process of the run ended, so this one cannot go on."""
