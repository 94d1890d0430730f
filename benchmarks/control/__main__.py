"""What control tokens are worth: masked expression restored, cells generated, rare labels, perturbations, "what if".

    python -m benchmarks.control --data DIR
    python -m benchmarks.control --data DIR --only generation --models runs/benchmarks

Every part holds donors out and puts a simple alternative into the same table; scVI and scANVI need `pip install
polygene[bench]`. Measured is polygene-512, on donors of two studies that its corpus holds out (FOLDER/corpora, made by
benchmarks.models.corpus if it is not there). `balance` and `unseen` train small networks of their own, from whose
training cells were taken out. The last line is one JSON object.
"""

from collections.abc import Sequence

from benchmarks.control import balance, counterfactual, denoise, generation, perturb
from benchmarks.shared import command

PARTS = {
    "denoise": denoise.run,
    "generation": generation.run,
    "unseen": generation.run_unseen,
    "balance": balance.run,
    "perturb": perturb.run,
    "counterfactual": counterfactual.run,
}


def main(argv: Sequence[str] | None = None) -> None:
    command.run_parts(__doc__, PARTS, argv=argv)


if __name__ == "__main__":
    main()
