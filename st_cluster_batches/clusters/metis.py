"""METIS (pymetis): a graph cut into parts of equal size, with few edges between them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def require_metis() -> Any:
    """Return the pymetis module.

    Raises:
        ImportError: If it is missing, with the extra that brings it.
    """
    if find_spec("pymetis") is None:
        raise ImportError("Communities need METIS: pip install 'st-cluster-batches[communities]'")
    import pymetis

    return pymetis


def cut_graph(graph: csr_array, n_parts: int, seed: int) -> npt.NDArray[np.int64]:
    """Return (n,) the part of every node of a symmetric graph; some parts may be empty."""
    if n_parts < 2:
        return np.zeros(graph.shape[0], dtype=np.int64)
    metis = require_metis()
    options = metis.Options(seed=seed)
    adjacency = metis.CSRAdjacency(graph.indptr, graph.indices)
    parts = metis.part_graph(n_parts, adjacency, options=options, recursive=False, warn_on_copies=False)
    return np.asarray(parts[1], dtype=np.int64)
