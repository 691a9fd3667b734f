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
    n_nodes = graph.shape[0]
    if n_parts < 2:
        return np.zeros(n_nodes, dtype=np.int64)
    metis = require_metis()
    # METIS has a seed, and cuts into k parts alike with any: the order of the nodes is what it starts from.
    order = np.random.default_rng(seed).permutation(n_nodes) if seed else np.arange(n_nodes)
    graph = graph[order][:, order] if seed else graph
    adjacency = metis.CSRAdjacency(graph.indptr, graph.indices)
    found = metis.part_graph(
        n_parts, adjacency, options=metis.Options(seed=seed), recursive=False, warn_on_copies=False
    )
    parts = np.empty(n_nodes, dtype=np.int64)
    parts[order] = found[1]
    return parts
