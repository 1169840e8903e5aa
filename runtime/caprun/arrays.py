"""Aliases for NumPy array types, one for each dtype."""

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
"""Ids of vocabulary pieces, or indices into a batch."""
