"""How large a difference a comparison could have found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8


def smallest_noncentrality(freedom: Floats | float) -> Floats:
    """Difference, in standard errors, that a two-sided t-test at 5% finds with a power of 80%.

    The noncentrality at which a noncentral t variable with so many degrees of freedom exceeds the
    critical value in 80% of the cases (Cohen, "Statistical Power Analysis", 1988, section 12.8);
    about 1.96 + 0.84 = 2.80 for many. That it might fall below the other critical value, with a
    chance of less than 1e-5, is left out.
    """
    critical = stats.t.ppf(1 - ALPHA / 2, freedom)
    return np.asarray(special.nctdtrinc(freedom, 1 - POWER, critical))


def minimal_detectable_difference(sd: Floats, n_users: int) -> Floats:
    """The smallest mean difference that a paired t-test finds with a power of 80%.

    noncentrality(n - 1) * sd / sqrt(n) (Bloom 1995, "Minimum detectable effects"), two-sided at 5%,
    without a correction for several pairs: under Holm's it takes more.

    Args:
        sd: [n_pairs], of the per-user differences (n - 1 in it).

    Raises:
        ValueError: fewer than two users.
    """
    if n_users < 2:
        raise ValueError(f"a paired test needs at least 2 users, got {n_users}")
    return np.asarray(smallest_noncentrality(n_users - 1.0) * sd / np.sqrt(n_users))
