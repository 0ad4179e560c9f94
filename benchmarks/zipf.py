"""How popular documents are when a few are asked for often and most hardly ever."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def popularity(num_documents: int, exponent: float) -> NDArray[np.float64]:
    """Return each document's share of what is asked for, the k-th's in proportion to 1/k^exponent.

    That is Zipf's law: float64 [num_documents], the most popular first, summing to 1.
    """
    weights = 1 / np.arange(1, num_documents + 1) ** exponent
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
