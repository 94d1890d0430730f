"""What control tokens are worth: hidden expression restored, cells generated, rare labels, perturbations, "what if".

    python benchmarks/control.py --data DIR
    python benchmarks/control.py --data DIR --only generation --models runs/benchmarks

Every part holds donors out where there are some and puts a simple alternative into the same table; scVI and scANVI
need `pip install polygene[bench]`. The models are small (2 layers x 128, 512 genes) and learn one file each. The last
line is one JSON object.
"""

import _control_balance
import _control_counterfactual
import _control_denoise
import _control_generation
import _control_perturb
import _parts

PARTS = {
    "denoise": _control_denoise.run,
    "generation": _control_generation.run,
    "balance": _control_balance.run,
    "perturb": _control_perturb.run,
    "counterfactual": _control_counterfactual.run,
}

if __name__ == "__main__":
    _parts.run(__doc__, PARTS)
