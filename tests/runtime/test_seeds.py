"""Seeds are checked once, and what passes the check every generator takes."""

import numpy as np
import pytest
import torch
from sklearn.utils import check_random_state

from polygene.errors import DataError
from polygene.runtime.seeds import LARGEST, check_seed


@pytest.mark.parametrize("seed", [-1, LARGEST + 1])
def test_a_seed_that_a_generator_refuses_is_an_error_of_the_user(seed):
    with pytest.raises(DataError, match=f"the seed is {seed}; give a whole number from 0"):
        check_seed(seed)


@pytest.mark.parametrize("seed", [0, LARGEST])
def test_every_generator_takes_a_seed_that_passes(seed):
    check_seed(seed)
    np.random.default_rng(seed)
    check_random_state(seed)
    torch.Generator().manual_seed(seed)
