"""Tables of the pages, from benchmarks/results: a function each, which gives Markdown. `recipes.pages` places them."""

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from benchmarks.analyses import page as analyses
from benchmarks.control import page as control
from benchmarks.scale import page as scale
from benchmarks.shared import bits
from benchmarks.shared.command import RESULTS
from benchmarks.shared.markdown import markdown
from benchmarks.trust import page as trust
from recipes.readme import STUDIES

PAIR = ("accuracy", "macro_f1")
SHORT = {
    "eight types": "eight types (CD4 and CD8, CD14 and CD16 apart)",
    "six types": "T, B, NK, monocyte, dendritic cell, platelet",
    "eight types, without contradicted T cells": "eight types, without T cells that their own genes contradict",
    "tissue": "tissue: blood",
    "sex": "sex: a man",
    "same type, thinned to a third": "same type when thinned to a third",
}
"""Scores of PBMC 3k → what a row of its table says."""


def kept(name: str) -> dict[str, Any]:
    """Read a kept result."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def where(*names: str) -> str:
    """Say by which commands, when and where results were measured."""
    found = [kept(name) for name in names]
    commands = ", ".join(dict.fromkeys(f"`{one['command'].partition(' --')[0]}`" for one in found))
    dates = " and ".join(sorted({one["date"] for one in found}))
    return f"By {commands}; seed {found[0]['seed']}, {found[0]['hardware']['processor']}, {dates}."


def pair(row: Mapping[str, float]) -> str:
    """Write accuracy / macro-F1, or accuracy where that is all."""
    return " / ".join(f"{row[name]:.3f}" for name in PAIR if not pd.isna(row.get(name, float("nan"))))


def never_seen() -> str:
    """Lay out the types of studies that trained nothing, a row a study, a column a method."""
    ours = [row for row in kept("never_seen")["rows"] if row["score"] == "types, by ontology"]
    rows = pd.DataFrame([{**row, "method": row["model"]} for row in ours] + kept("external")["rows"])
    methods = list(dict.fromkeys(rows["method"]))
    of = {(row["study"], row["method"]): row for row in rows.to_dict("records")}
    body = [[title, *(pair(of[study, method]) for method in methods)] for study, title in STUDIES.items()]
    means = rows.groupby("method")[list(PAIR)].mean()
    body.append(["mean", *(pair(means.loc[method].to_dict()) for method in methods)])
    agreed_C = bits.read(next(row["kept"] for row in kept("never_seen")["rows"] if "kept" in row))
    right = (bits.read(of["pbmc3k_10x", method]["right"]) for method in methods)
    body.append(["PBMC 3k, without contradicted T cells", *(f"{right_C[agreed_C].mean():.3f}" for right_C in right)])
    return f"{markdown([['study', *methods], *body])}\n\n{where('never_seen', 'external')}"


def targets() -> str:
    """Lay out what was wanted of the models, and what is measured; what falls short is bold."""
    models = kept("models")["targets"]
    of = {(row["target"], name): row for name, rows in models.items() for row in rows}
    body = []
    for target, row in {row["target"]: row for rows in models.values() for row in rows}.items():
        bounds = ((word, row[key]) for word, key in (("at least", "at_least"), ("at most", "at_most")))
        study, colon, rest = target.partition(":")
        numbers = []
        for one in (of.get((target, name)) for name in models):
            text = "" if one is None else f"{one['now']:.3f}".replace("-", "−").removesuffix(".000")
            if one and one["ends"]:
                text += " ({:.3f} to {:.3f})".format(*one["ends"]).replace("-", "−")
            numbers.append(f"**{text}**" if one and not one["met"] else text)
        wanted = ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        what = f"{STUDIES.get(study, study)}{colon}{rest}"
        for name, word in (("macro_f1", "macro-F1"), ("knn_accuracy", "k-NN"), (" ari ", " ARI "), (" nmi ", " NMI ")):
            what = what.replace(name, word)
        body.append([what, wanted, *numbers])
    return f"{markdown([['what', 'wanted', *models], *body])}\n\nBold: falls short. {where('models')}"


def card(model: str) -> str:
    """Lay out what one model makes of each study never seen, for its card."""
    rows = [row for row in kept("never_seen")["rows"] if row["model"] == model]
    of = {(row["study"], row["score"]): row for row in rows}
    head = ["study never seen", "types", "same type when thinned to a third", "tissue", "sex"]
    scores = ("types, by ontology", "same type, thinned to a third", "tissue", "sex")
    body = [[title, *(pair(of.get((study, score), {})) for score in scores)] for study, title in STUDIES.items()]
    body += [[f"PBMC 3k: {SHORT[score]}", pair(of["pbmc3k_10x", score]), "", "", ""] for score in list(SHORT)[:3]]
    return f"{markdown([head, *body])}\n\n{where('never_seen')}"


def pbmc() -> str:
    """Lay out what the models make of PBMC 3k."""
    rows = [row for row in kept("never_seen")["rows"] if row["study"] == "pbmc3k_10x"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    of = {(row["score"], row["model"]): row for row in rows}
    body = [[title, *(pair(of[score, model]) for model in models)] for score, title in SHORT.items()]
    return markdown([["PBMC 3k", *models], *body])


def finetune() -> str:
    """Lay out what a head learns from few cells."""
    from benchmarks.models import finetune as heads

    return f"{markdown(heads.summary(kept('finetune')['rows']))}\n\n{where('finetune')}"


def sets() -> str:
    """Lay out what sets and errors are worth on studies never seen, in short."""
    results = kept("studies")
    columns = {
        "accuracy": "right",
        "coverage_external": "sets hold the true type",
        "set_size": "labels in a set",
        "ece_external": "calibration error of `_error`",
        "auroc_wrong": "AUROC of `_error`",
    }
    rows = [[STUDIES.get(study, study), *_texts(row, columns)] for study, row in results["by_study"].items()]
    rows.append([f"mean, {results['model']}", *_texts(results, columns)])
    rows += [[f"mean, {name}", *_texts(row, columns)] for name, row in results["other_models"].items()]
    return f"{markdown([['study', *columns.values()], *rows])}\n\n{where('studies')}"


def given() -> str:
    """Lay out what a given label adds to the share of right types."""
    rows = pd.DataFrame(kept("given")["rows"])
    rows = rows[rows["predicted"] == "cell_type"]
    names = [name for name in ("tissue", "sex", "disease") if name in set(rows["given"])]
    of = {(row["study"], row["given"]): row for row in rows.to_dict("records")}
    body = [[title, *(_gain(of.get((study, name))) for name in names)] for study, title in STUDIES.items()]
    body = [row for row in body if any(row[1:])]
    return f"{markdown([['study', *(f'{name} given' for name in names)], *body])}\n\n{where('given')}"


def faults() -> str:
    """Count what was tried to break runs and files, and what survived."""
    results = kept("faults")
    groups = {"kills": "runs killed", "pairs": "two runs into one place", "full disks": "full disks"}
    groups |= {"altered checkpoints": "altered checkpoints", "foreign": "foreign files and links in checkpoints"}
    groups |= {"altered run folders": "altered folders of stopped trainings", "altered corpora": "altered corpora"}
    sums = {
        title: [sum(n for name, n in results[what].items() if name.startswith(head)) for what in ("tried", "survived")]
        for head, title in groups.items()
    }
    rows = [[title, *(f"{n:,}" for n in counts)] for title, counts in sums.items()]
    return f"{markdown([['fault', 'tried', 'survived'], *rows])}\n\n{where('faults')}"


def memory() -> str:
    """Lay out the peak memory of every verb as the cells grow; at a million of two verbs what the atlas says."""
    results, atlas = kept("memory"), kept("atlas")
    rows = results["verbs"]
    for verb in ("prepare", "annotate"):
        rows[verb].setdefault("1000000", atlas[verb]["1000000"])
    sizes = sorted({n for of_n in rows.values() for n in of_n}, key=int)
    body = []
    for verb, of_n in rows.items():
        least, most = min(of_n, key=int), max(of_n, key=int)
        grown = 1e6 * (of_n[most]["peak_mb"] - of_n[least]["peak_mb"]) / max(int(most) - int(least), 1)
        peaks = [f"{of_n[n]['peak_mb']:,.0f} MB" if n in of_n else "" for n in sizes]
        body.append([f"`{verb}`", *peaks, "" if least == most else f"{grown:,.0f}".replace("-", "−")])
    head = ["verb", *(f"{int(n):,} cells" for n in sizes), "bytes for a cell more"]
    return f"{markdown([head, *body])}\n\n{where('memory', 'atlas')}"


def screen() -> str:
    """Count the cells that a model of other cells contradicts."""
    rows = [
        [name, *(f"{one['suspects']:,} of {one['cells']:,}" for one in (of["within"], of["across"]))]
        for name, of in kept("screen")["sources"].items()
    ]
    return f"{markdown([['source', 'within', 'across studies'], *rows])}\n\n{where('screen')}"


def calibration() -> str:
    """Lay out every way to set thresholds and to predict errors that was compared on left-out studies."""
    return "\n".join(trust.of_calibration(kept("calibrate"))).rstrip()


def studies() -> str:
    """Lay out all scores of sets, errors, novelty and votes on studies never seen."""
    return "\n".join(trust.of_studies(kept("studies"))).rstrip()


def part(name: str, section: Callable[[Mapping[str, Any]], str]) -> str:
    """Lay out one part of a benchmark of several, and say where it was measured."""
    return f"{section(kept(name))}\n\n{where(name)}"


def known() -> str:
    """Lay out the test donors of studies that trained the models."""
    rows = kept("known")["rows"]
    methods, of = (
        list(dict.fromkeys(row["method"] for row in rows)),
        {(row["source"], row["method"]): row for row in rows},
    )
    body = []
    for source in dict.fromkeys(row["source"] for row in rows):
        first = of[source, methods[0]]
        half = "" if first["half"] is None else f" ± {first['half']:.3f}"
        gain = f"{first['gain']:+.3f}{half}".replace("-", "−")
        body.append(
            [source, str(first["donors"]), str(first["cells"]), *(pair(of[source, one]) for one in methods), gain]
        )
    head = ["source", "test donors", "cells", *methods, f"{methods[0]} over {methods[1]}"]
    return f"{markdown([head, *body])}\n\n{where('known')}"


def votes() -> str:
    """Lay out every way to vote that was compared on left-out studies."""
    results = kept("votes")
    body = [
        [f"{row['resolution']:g}" if row["resolution"] else "", row["vote"]]
        + [f"{row['clusters']:.0f}" if row["resolution"] else ""]
        + [f"{row[share]:.3f}" for share in ("right", "broader", "wrong", "mixed")]
        for row in results["means"]
    ]
    head = ["resolution", "label", "clusters", "right", "true but broader", "wrong", "in mixed clusters"]
    return f"{markdown([head, *body])}\n\n{where('votes')}"


def coverage() -> str:
    """Lay out what is left of macro-F1 where a file measures a part of the panel."""
    results = kept("coverage")
    studies = {one.partition("_")[0]: title for one, title in STUDIES.items()}
    names = list(results["measured"])
    head = ["share that is measured", "left of macro-F1, at random", "worst, the most variable ones missing"]
    head += [f"macro-F1, {studies[name]} ({results['measured'][name]} genes): at random" for name in names]
    rows = [
        [f"{float(share):.0%}", *(f"{value:.2f}" for value in (kept_share, results["kept_at_worst"][share]))]
        + [f"{results['curves'][f'{name}, random, {share}']:.2f}" for name in names]
        for share, kept_share in sorted(results["kept"].items(), key=lambda one: -float(one[0]))
    ]
    return f"{markdown([head, *rows])}\n\n{where('coverage')}"


def annotation() -> str:
    """Lay out networks of one study each beside their baselines."""
    results, rows = kept("annotation"), []
    who: list[str] = []
    for study in (name for name in ("onek1k", "velmeshev", "perez") if name in results):
        for phenotype, row in results[study].items():
            if isinstance(row, dict):
                scores = {name: one for name, one in row.items() if name not in ("score", "at_or_above_reference")}
                who += [name for name in scores if name not in who]
                rows.append((study, phenotype, row["score"], scores))
    body = [
        [study, phenotype, score.replace("macro_f1", "macro-F1").replace("mae_years_by_donor", "years off")]
        + ["" if scores.get(name) is None else f"{scores[name]:.3f}" for name in who]
        for study, phenotype, score, scores in rows
    ]
    return f"{markdown([['study', 'phenotype', 'score', *who], *body])}\n\n{where('annotation')}"


def _texts(row: Mapping[str, float], columns: Iterable[str]) -> list[str]:
    return [f"{row[name]:.2f}" for name in columns]


def _gain(row: Mapping[str, float] | None) -> str:
    return "" if row is None else f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]".replace("-", "−")


def local_page() -> str:
    """Lay out what the local page takes for files of several sizes, beside the command line."""
    head = [
        "cells",
        "`polygene annotate`",
        "predictions on the page",
        "map",
        "“what if”",
        "peak",
        "after a cancel",
        "frames",
    ]
    body = []
    for n, of in kept("app")["sizes"].items():
        line, page = of.get("line"), of["page"]
        frames = page["frames_per_s"]
        body.append(
            [
                f"{int(n):,}",
                f"{line['processor_s']:,.0f} s" if line else "",
                *(f"{page[f'{step}_processor_s']:,.0f} s" for step in ("predict", "map", "what_if")),
                f"{page['peak_mb']:,.0f} MB",
                f"{page['cancelled_mb']:,.0f} MB",
                "" if frames is None else f"{frames:.0f} at load {page['load']:.0f}",
            ]
        )
    return f"{markdown([head, *body])}\n\n{where('app')}"


TABLES: dict[str, Callable[[], str]] = {
    one.__name__: one
    for one in (never_seen, local_page, pbmc, finetune, sets, given, faults, screen, calibration, studies)
}
TABLES |= {one.__name__: one for one in (coverage, annotation, known, memory, targets, votes)}
TABLES |= {name: functools.partial(part, name, one) for name, one in control.SECTIONS.items()}
TABLES |= {f"small_{name}": functools.partial(part, name, one) for name, one in trust.SECTIONS.items()}
TABLES |= {part: functools.partial(analyses.section, part) for part in analyses.SECTIONS}
TABLES |= {f"card_{size}": functools.partial(card, f"polygene-{size}") for size in (512, 2432)}
TABLES |= {
    one.__name__: one
    for one in (
        *(scale.scale_atlas, scale.scale_sizes, scale.scale_parts),
        *(scale.scale_hosts, scale.scale_losses, scale.scale_recipes),
    )
}
