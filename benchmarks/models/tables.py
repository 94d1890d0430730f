"""Tables of what `benchmarks/models` finds, for terminal and cards: lists of rows of text, the head first."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from benchmarks.models.baselines import CELLTYPIST
from benchmarks.models.scores import CREDITED, SCORES, YEARS_SCORE, of
from polygene.evaluation.test_cells import MODEL, REFERENCE, YEARS_REFERENCE

WORDS = {
    "majority": "majority label",
    "source majority": "source only",
    "measured genes + library size": "measured genes + library size only",
    "k-nearest neighbours": "k-NN",
    REFERENCE: "logistic regression, tuned",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    YEARS_SCORE: "years off, by donor",
}
TextTable = list[list[str]]


def number(value: float | None, sign: str = "") -> str:
    """Write a number, or a dash where there is none."""
    return "–" if value is None or pd.isna(value) else f"{value:{sign}.3f}"


def interval(one: Mapping[str, Any], name: str = "") -> str:
    """Write a value and its interval; `name` is "" or "gain"."""
    sign, prefix = ("+", "gain_") if name else ("", "")
    value = number(one[name or "value"], sign)
    if pd.isna(one[f"{prefix}low"]):
        return value
    return f"{value} [{number(one[f'{prefix}low'], sign)}, {number(one[f'{prefix}high'], sign)}]"


def markdown(rows: TextTable) -> str:
    """Lay out a table for Markdown."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def support(row: Mapping[str, Any]) -> str:
    """Say on what a score rests."""
    text = f"{row['cells']:,} cells of {row['donors']} donor{'s' * (row['donors'] != 1)}"
    if labels := row.get("labels"):
        text += f", {labels} label{'s' * (labels != 1)}"
    if row.get("not_scored"):
        text += f"; {row['not_scored']:,} cells of labels not scored"
    return text + ("; intervals over cells" if row["unit"] == "cell" else "")


def score_table(row: Mapping[str, Any]) -> TextTable:
    """Lay out every score of every predictor in one source, by the ontology too for cell types."""
    columns = [(score, "scores") for score in ((YEARS_SCORE,) if in_years(row) else SCORES)]
    columns += [(score, "by_ontology") for score in CREDITED if "by_ontology" in row]
    main, reference = columns[0][0], YEARS_REFERENCE if in_years(row) else REFERENCE
    words = [WORDS[score] + (" by ontology" if table == "by_ontology" else "") for score, table in columns]
    found = [["", *words, f"gain over {reference} ({WORDS[main]})"]]
    for who in dict.fromkeys(one["predictor"] for one in row["scores"]):
        cells = [interval(of(row, who, score, table)) for score, table in columns]
        gain = "–" if who == reference else interval(of(row, who, main), "gain")
        found.append([WORDS.get(who, who), *cells, gain])
    return found


def in_years(row: Mapping[str, Any]) -> bool:
    """Say whether a row scores ages in years."""
    return row["phenotype"].endswith(" in years")


def zero_shot_table(rows: Iterable[Mapping[str, Any]]) -> TextTable:
    """Lay out the cell types of studies never seen, exact and by the ontology."""
    shown = (MODEL, REFERENCE, "k-nearest neighbours", CELLTYPIST, "majority", "measured genes + library size")
    found = [["study never seen", "score", *(WORDS.get(who, who) for who in shown), "gain over CellTypist"]]
    for row in rows:
        if not row["external"] or "by_ontology" not in row:
            continue
        scores = [("macro_f1", "scores"), ("macro_f1", "by_ontology")] * (row["labels"] > 1)
        for score, table in [*scores, ("accuracy", "by_ontology")]:
            credited = table == "by_ontology"
            over = of(row, MODEL, score, "over_celltypist_by_ontology" if credited else "over_celltypist")
            values = [number(of(row, who, score, table)["value"]) for who in shown]
            words = WORDS[score] + " by ontology" * credited
            found.append([f"{row['source']}: {support(row)}", words, *values, interval(over, "gain")])
    return found


def target_table(targets: Iterable[Mapping[str, Any]]) -> TextTable:
    """Lay out the targets."""
    found = [["target", "score", "gain of PolyGene", "PolyGene is", ""]]
    for one in targets:
        asked = f"{one['phenotype'].replace('_', ' ')} in {one['source']}: not below {one['reference']}"
        score = one["score"].replace("macro_f1", "macro-F1").replace(YEARS_SCORE, WORDS[YEARS_SCORE])
        over = f"{interval(one, 'gain')} over {'donors' if one['unit'] == 'donor' else 'cells, too few donors'}"
        found.append([asked, score, over, one["found"], "met" if one["met"] else "missed"])
    return found


def calibration_table(calibration: Iterable[Mapping[str, Any]]) -> TextTable:
    """Lay out ECE and log loss beside the marginal's."""
    found = [["phenotype", "ECE", "log loss", "log loss of the marginal", "worth something", "temperature (donors)"]]
    for one in calibration:
        temperature = f"{one['temperature']:.2f} ({one['calibration_donors']})" if one["calibration_donors"] else "–"
        of_model = [
            interval({"value": one[name], "low": one[f"{name}_low"], "high": one[f"{name}_high"]})
            for name in ("ece", "log_loss")
        ]
        found.append(
            [
                one["phenotype"].replace("_", " "),
                *of_model,
                f"{one['marginal_log_loss']:.3f}",
                "yes" if one["informative"] else "no",
                temperature,
            ]
        )
    return found


def unknown_table(unknown: Mapping[str, Any]) -> TextTable:
    """Lay out which share of cells is flagged."""
    found = [["cells", "flagged as unknown"]]
    for kind in ("test donors", "studies never seen"):
        found += [[f"{kind}: {source}", f"{share:.1%}"] for source, share in unknown[kind].items()]
    return found


def speed_line(speed: Mapping[str, Any]) -> str:
    """Say how fast it is."""
    return (
        f"annotates {speed['cells']:,} cells in {speed['annotate_s']:.1f} s on {speed['threads']} threads "
        f"({speed['cells_per_s']:,.0f} cells/s; {speed['cpu_s']:.1f} s of processor time), with "
        f"{speed['peak_mb']:,.0f} MB at the peak, and loads in {speed['load_s']:.2f} s after {speed['import_s']:.1f} s "
        f"of imports; load of the machine before: {speed['load_average']} on {speed['cores']} cores"
        + (f"; {speed['verdict']}" if speed["verdict"] else "")
    )
