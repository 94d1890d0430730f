"""Lay out the tables of docs/paper.md from the kept results; `python -m recipes.pages` writes them."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.analyses import network_page
from benchmarks.shared.command import RESULTS
from benchmarks.shared.markdown import markdown

Section = Mapping[str, Any]


def number(value: Any, digits: int = 2) -> str:
    """Write a number, or a dash where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float) and value.is_integer() and abs(value) > 1:  # a count that pandas made a float
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def interval(value: Any, low: Any, high: Any) -> str:
    """Write a value with its interval, where it has one."""
    return number(value) if low is None else f"{number(value)} [{number(low)}, {number(high)}]"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Lay out a Markdown table."""
    return markdown([list(head), *([number(value) for value in row] for row in rows)])


def of_manifold(results: Section) -> str:
    """Lay out purity, ARI and mixing of every space, with the verdict of each study."""
    parts = []
    scores = results["scores"]
    for study in dict.fromkeys(row["study"] for row in scores):
        of_study = [row for row in scores if row["study"] == study]
        phenotypes = list(dict.fromkeys(row["phenotype"] for row in of_study))
        several = len({row["model"] for row in of_study}) > 1
        rows: dict[str, list[str]] = {}
        for row in of_study:
            name = row["space"] + (f", {row['model']}" if several else "")
            rows.setdefault(name, [name])
        heads = ["space"]
        for phenotype in phenotypes:
            for score, words in (("purity", "purity"), ("ari", "ARI"), ("bras", "BRAS")):
                found = [row for row in of_study if row["phenotype"] == phenotype and row["score"] == score]
                if not found:
                    continue
                heads.append(f"{phenotype}: {words}")
                for row in found:
                    name = row["space"] + (f", {row['model']}" if several else "")
                    rows[name].append(interval(row["value"], row["low"], row["high"]))
        first = of_study[0]
        parts.append(
            f"{study}, {first['n_cells']:,} cells of {first['n_donors']} donors:\n\n{table(heads, rows.values())}"
        )
    told = [f"* {what}: {words}." for what, words in results["verdict"].items()]
    distances = [
        [name, row["labels"], row["halves_agree"], row["expression_agrees"]]
        for name, row in results["distances"].items()
    ]
    parts.append("Is a state purer than PCA of the same genes, over donors?\n\n" + "\n".join(told))
    parts.append(
        table(["distances of cell types", "labels", "halves of donors agree", "agree with expression"], distances)
    )
    return "\n\n".join(parts)


def of_biomarkers(results: Section) -> str:
    """Lay out what each method finds, and the checks."""
    heads = ["question", "donors", "contexts", "genes", "attribution", "pseudobulk", "Wilcoxon", "attribution alone"]
    rows = [
        [
            question, row["donors"], len(row["contexts"]), row["genes"], *row["replicate"].values(),
            row["found_by"].get("attribution", 0),
        ]
        for question, row in results["questions"].items()
    ]  # fmt: skip
    told = []
    for question, row in results["questions"].items():
        names = {key: ", ".join(row[key]) or "none" for key in ("largest", "attribution_alone")}
        told.append(
            f"* {question}: largest {names['largest']}; by attribution alone {names['attribution_alone']}; rank "
            f"correlation of |attribution| with |change| {number(row['rank_correlation_with_pseudobulk'])}, "
            f"of attribution with removal {number(row['removal_correlation'])}."
        )
    recovery, areas = results["biomarker_recovery"], results["biomarker_recovery_auc"]
    counts = {
        "attributions": (recovery["attribution_replicates"], recovery["of_those_planted"]),
        "pseudobulk": (recovery["pseudobulk_replicates"], recovery["of_pseudobulk_planted"]),
    }
    checks = [
        *[[f"planted markers, area under the curve: {method}", area] for method, area in areas.items()],
        *[[f"{name} that replicate (of those planted)", f"{n} ({of})"] for name, (n, of) in counts.items()],
        ["planted, in each tissue", f"{recovery['planted']} × {recovery['tissues']}"],
        *[
            [f"correlation with attributions of random weights, {kind}", value]
            for kind, value in results["attribution_randomisation_corr"].items()
        ],
    ]  # fmt: skip
    return "\n\n".join([table(heads, rows), "\n".join(told), table(["check", "value"], checks)])


def of_polyfunctionality(results: Section) -> str:
    """Lay out spreads beside their nulls, and the worked example."""
    parts = []
    for name, row in results["contexts"].items():
        if "reason" in row:
            parts.append(f"{name}: {row['reason']}")
            continue
        facts = [
            ["cells, donors, contexts", f"{row['cells']:,}, {row['donors']}, {len(row['contexts'])}"],
            ["median spread between contexts, states as they are", row["spread_raw"]],
            ["the same, less what the cell shares and the bin explains", row["spread"]],
            ["the same, contexts shuffled within donors", row["spread_shuffled"]],
            ["the same, network with random weights", row["spread_random_weights"]],
            ["genes that stand out, of those measured", f"{row['polyfunctional']} of {row['genes']}"],
            ["the same, random weights", row["polyfunctional_random_weights"]],
            [
                "rank correlation of percentiles with those of random weights",
                row["percentiles_correlate_with_random_weights"],
            ],
        ]
        asked = [
            [
                gene, *(one[key] for key in ("n_cells", "n_contexts", "spread", "expected", "percentile")),
                one["percentile_random_weights"], one["replicates"], one["reason"] or "",
            ]
            for gene, one in row["asked"].items()
        ]  # fmt: skip
        head = ["gene", "cells", "contexts", "spread", "expected", "percentile", "by random weights", "replicates", ""]
        near = [f"* {where}: {genes}" for where, genes in row["nearest"].items()]
        parts += [f"{name[0].upper()}{name[1:]}:", table(["", "value"], facts), table(head, asked)]
        parts += ["Nearest genes in each context:\n\n" + "\n".join(near)] if near else []
    return "\n\n".join(parts)


def of_stability(results: Section) -> str:
    """Lay out how alike models are, and what survives."""
    rows = [
        [
            pair, row["what"], row["n"], interval(row["cka"], row["cka_low"], row["cka_high"]), row["cka_shuffled"],
            interval(row["neighbors"], row["neighbors_low"], row["neighbors_high"]), row["neighbors_chance"],
        ]
        for pair, table_of in results["similarity"].items()
        for row in table_of
    ]  # fmt: skip
    head = ["models", "of", "n", "CKA", "shuffled", "shared neighbours", "by chance"]
    found = results["seed_stability"]
    survive = [
        ["biomarkers that replicate", *found["biomarkers"].values(), found["biomarkers_rank_correlation"]],
        ["genes that stand out by spread", *found["polyfunctional"].values(), found["percentile_rank_correlation"]],
    ]
    names = ["finding", "in any seed", "in all seeds", "rank correlation of two seeds"]
    return f"{table(head, rows)}\n\n{table(names, survive)}"


SECTIONS: dict[str, Callable[[Section], str]] = {
    "manifold": of_manifold,
    "biomarkers": of_biomarkers,
    **network_page.SECTIONS,
    "polyfunctionality": of_polyfunctionality,
    "stability": of_stability,
}


def section(part: str) -> str:
    """Lay out a part with the command that measured it; nothing where it was not measured."""
    results = json.loads((RESULTS / "analyses.json").read_text(encoding="utf-8"))
    if part not in results:
        return "Not measured yet."
    one = results[part]
    where = (
        f"`python -m benchmarks.analyses --data DIR --only {part}`, {one['date']}, seed {one['seed']}, "
        f"{', '.join(one['models'])}, {one['seconds']:,} s on a busy {one['hardware']['processor']}."
    )
    return f"{where}\n\n{SECTIONS[part](one)}".rstrip()
