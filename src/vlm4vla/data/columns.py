"""Arrow columns of vectors to numpy and back."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def to_numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column of numbers, or of lists of numbers of one length, as (N, D); D = 1 for plain numbers."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of an empty column
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        flat: npt.NDArray[Any] = array.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(array), -1)
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(-1, 1)


def to_arrow(values: npt.NDArray[np.float32]) -> pa.Array:
    """(N, D) float32 as a column of lists of D numbers."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
