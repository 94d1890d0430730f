"""A benchmark of several parts, which can be asked for one by one and share their models."""

import argparse
import json
import logging
import platform
import tempfile
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.shared import files

Part = Callable[[Path | None, int, Path], Mapping[str, Any]]
"""Takes the folder of the data, the seed, and the folder of the models; prints its tables and gives its numbers."""


def run(description: str, parts: Mapping[str, Part]) -> None:
    """Read the command line, run the parts that it names, and print all numbers as one JSON object."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    files.add_data_option(parser)
    parser.add_argument("--only", choices=parts, action="append", help="this part; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="of donor splits, of training and of what is drawn")
    parser.add_argument("--models", type=Path, help="keep corpora and models here; else in a temporary folder")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    warnings.simplefilter("ignore")  # what packages tell their developers
    torch.set_num_threads(1)  # so that times mean something on a busy machine
    said: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "seed": arguments.seed}
    said["machine"] = platform.processor() or platform.machine()
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only or parts:
            said |= parts[name](arguments.data, arguments.seed, arguments.models or Path(scratch))
            print(f"part {name} done", flush=True)
    print(json.dumps(said, default=float))  # numpy numbers are numbers too
