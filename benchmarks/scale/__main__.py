"""From a laptop to an atlas: time and memory of `prepare` and `annotate`, parts, hosts, and how loss scales.

    python -m benchmarks.scale --data DIR
    python -m benchmarks.scale --data DIR --only atlas --sizes 10000000 --folder SCRATCH  # hours: see atlas.py
    python -m benchmarks.scale --data DIR --only scaling
    python -m recipes.pages  # writes the tables of docs/scale.md from the kept results

`atlas` resamples OneK1K into files of growing size, `parts` prepares one file in parts and by two processes, `hosts`
trains on two hosts made of network namespaces (of the loopback where those are not allowed) and kills one, `scaling`
trains networks of three sizes on three numbers of cells, `budget` measures steps of the networks of the recipes for the
Census and says which size a budget allows. Rates are cells by seconds of the processor, which other
programs disturb little. The last line is one JSON object.
"""

from collections.abc import Sequence

from benchmarks.scale import atlas, budget, hosts, parts, scaling
from benchmarks.shared import command

# What the system says of the memory of a process counts the memory of the one that starts it. So nothing heavy is
# imported before atlas and parts have measured.
PARTS = {"atlas": atlas.run, "parts": parts.run, "hosts": hosts.run, "scaling": scaling.run, "budget": budget.run}


def main(argv: Sequence[str] | None = None) -> None:
    command.run_parts(__doc__, PARTS, atlas.add_options, threads=None, argv=argv)


if __name__ == "__main__":
    main()
