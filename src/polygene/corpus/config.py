"""How a corpus is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from polygene.corpus.split import SplitBy
from polygene.errors import RecipeError, is_number
from polygene.vocab.binning import Binning
from polygene.vocab.phenotypes import CELLXGENE, Phenotype


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a corpus is made.

    Parameters
    ----------
    n_genes
        Genes of the panel; the published panels have 512 and 2432.
    binning
        "cell_rank", "cell_quantile", "linear" or "binary", see `ExpressionBinner`.
    n_bins
        Bins, bin 0 ("not expressed") included; "binary" has two whatever this says.
    split
        What is held out: "donor", "study" (whole files), or "random" (cells; scores come out too good).
    fractions
        Shares of donors (files, cells) that train, validate and test; at least one donor for each share above 0.
    seen
        Share of the cells of training donors (files) that does not train. Scores on them minus scores on test donors
        are the leakage gap, by which a split by cells would flatter. Without effect where split="random".
    donor
        The column of `obs` that holds the donor.
    phenotypes
        Columns of `obs` by phenotype, where they differ from the CELLxGENE schema: {"sex": "sex_inferred"}. A name
        beyond the five, such as {"treatment": "drug"}, is a phenotype more.
    rank_cells
        How many training cells rank the genes at most, in stretches spread over the sources, of which each has an equal
        share and 2,000 at least.
    include_genes
        Symbols or Ensembl ids that are in the panel whatever their rank.
    layer
        The layer with the expression, "raw" for `.raw`, None for `X`; of a SOMA experiment None is its layer "raw".
    where
        Which cells of a SOMA experiment are read: a condition on columns of `obs`, as tiledbsoma's `value_filter`, such
        as "tissue_general == 'lung' and is_primary_data == True".
    totals
        The column of `obs` with the counts of each cell over the whole genome, for files that hold some genes only.
    thinned
        Add a copy of each training cell with its counts thinned to a random share (files of counts, sampled cells left
        out), so that depth does not name a study.
    seed
        Decides the split, and how cells are thinned.
    """

    n_genes: int = 512
    binning: Binning = "cell_rank"
    n_bins: int = 10
    split: SplitBy = "donor"
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seen: float = 0.0
    donor: str = "donor_id"
    phenotypes: Mapping[str, str] = field(default_factory=dict)
    rank_cells: int = 500_000
    include_genes: Sequence[str] = ()
    layer: str | None = None
    where: str | None = None
    totals: str | None = None
    thinned: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("binning", get_args(Binning)), ("split", get_args(SplitBy))):
            if getattr(self, name) not in choices:
                msg = f"{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}"
                raise RecipeError(msg)
        if (
            len(self.fractions) != 3
            or min(self.fractions) < 0
            or not self.fractions[0]
            or abs(sum(self.fractions) - 1) > 1e-6
        ):
            msg = f"fractions are the shares that train, validate and test, and add up to 1; got {self.fractions}"
            raise RecipeError(msg)
        if not 0 <= self.seen <= 0.5:
            msg = f"seen is the share of the training donors' cells that is set aside, from 0 to 0.5; got {self.seen}"
            raise RecipeError(msg)
        for name, lowest, highest in (
            ("n_genes", 1, 65_535),
            ("n_bins", 2, 256),
            ("rank_cells", 1, 2**40),
            ("seed", 0, 2**32 - 1),
        ):
            if not is_number(value := getattr(self, name), whole=True) or not lowest <= value <= highest:
                msg = f"{name} lies between {lowest:,} and {highest:,}; got {value!r}"
                raise RecipeError(msg)

    def schema(self) -> tuple[Phenotype, ...]:
        """Give the phenotypes: the five of CELLxGENE, then those that are added."""
        known = [replace(one, column=self.phenotypes.get(one.name, one.column)) for one in CELLXGENE]
        names = {one.name for one in known}
        added = [Phenotype(name=n, column=c) for n, c in self.phenotypes.items() if n not in names]
        columns = [one.column for one in (*known, *added)]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            msg = f"two phenotypes are read from the column {twice[0]!r}: one would give the other away. Name one only."
            raise RecipeError(msg)
        return (*known, *added)
