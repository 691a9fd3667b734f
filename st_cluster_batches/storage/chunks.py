"""Arrays on disk in checksummed chunk files, filled by several processes and resumed after a kill."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from tqdm.auto import tqdm

from st_cluster_batches.storage.cache import remove_leftovers, write_whole
from st_cluster_batches.storage.shared_cache import SharedCache

logger = logging.getLogger(__name__)

# Rows that an interruption can cost: a minute's work for a small transformer on a laptop, less than a second's for a
# static encoder, and enough rows for `encode` to sort by length.
CHUNK = 4096
# A folder of more files than this is slow on shared file systems; chunks grow instead, to 100,000 rows of a billion.
_MAX_CHUNKS = 10_000

Array = npt.NDArray[Any]


@dataclass
class ChunkedArray:
    """An array on disk whose chunks are files that carry their checksum in their name.

    Args:
        folder: Where they are.
        n_rows: Rows of the whole array.
        chunk_rows: Rows of a chunk; the last one may be shorter.
    """

    folder: Path
    n_rows: int
    chunk_rows: int
    _paths: dict[int, Path] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, n_rows: int) -> ChunkedArray:
        """Lay out an array; nothing is written yet."""
        return cls(folder, n_rows, max(CHUNK, -(-n_rows // _MAX_CHUNKS)))

    @property
    def n_chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.n_rows // self.chunk_rows)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk, and the one after its last."""
        return chunk * self.chunk_rows, min(self.n_rows, (chunk + 1) * self.chunk_rows)

    def fill(self, make: Callable[[int], Array], cache: SharedCache, description: str) -> None:
        """Make the chunks that are missing or damaged, each process its share, and wait for the others.

        Args:
            make: Returns the rows of a chunk.
            cache: Who shares the work, and whether to show progress.
            description: What the progress bar says.

        Raises:
            OSError: If a chunk cannot be written; those before it are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        self._find()
        processes = cache.processes
        share = processes.share(self.n_chunks)
        present = [chunk for chunk in share if self.holds(chunk)]
        if present and len(present) < len(share):
            logger.info("%s goes on with chunk %d of %d", description, len(present) + 1, len(share))
        has_bar = cache.show_progress_bar and len(present) < len(share)
        bar = tqdm(total=self.n_rows, desc=description, unit="row", disable=not has_bar)
        bar.update(min(self.n_rows, len(present) * self.chunk_rows * processes.size))
        for chunk in sorted(set(share) - set(present)):
            self._write(chunk, make(chunk))
            bar.update(min(self.n_rows - bar.n, self.chunk_rows * processes.size))
        bar.close()
        processes.wait()
        if not self.is_complete():
            missing = set(range(self.n_chunks)) - set(self._paths)
            raise FileNotFoundError(
                f"{self.folder} lacks the chunks {sorted(missing)[:5]}; every node must see the same cache: pass "
                "cache_dir= on a file system that all share"
            )

    def is_complete(self) -> bool:
        """Whether every chunk is there; what they hold is checked by `fill` alone."""
        self._find()
        return len(self._paths) == self.n_chunks

    def has_chunks(self) -> bool:
        """Whether any chunk is there."""
        self._find()
        return bool(self._paths)

    def holds(self, chunk: int) -> bool:
        """Whether a chunk is there as it was written; one that is damaged is removed."""
        return chunk in self._paths and self._is_whole(chunk)

    def read(self, chunk: int) -> Array:
        """Read a chunk into memory; not mapped, so that pages of chunks gone by do not count as ours."""
        rows: Array = np.load(self._paths[chunk])
        return rows

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Array:
        """Read some rows, given in ascending order, touching only the pages that they lie on."""
        ends = np.searchsorted(rows, np.arange(1, self.n_chunks + 1) * self.chunk_rows)
        starts = np.concatenate(([0], ends[:-1]))
        # The header of one has the length of all; reading each costs more.
        first = np.load(next(iter(self._paths.values())), mmap_mode="r")
        taken = np.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
        for chunk, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if end > start:
                low, high = self.bounds(chunk)
                shape = (high - low, *first.shape[1:])
                mapped = np.memmap(self._paths[chunk], first.dtype, "r", first.offset, shape)
                taken[start:end] = mapped[rows[start:end] - low]
        return taken

    def slice(self, low: int, high: int) -> Array:
        """Read the rows from one up to another."""
        chunks = range(low // self.chunk_rows, max(low // self.chunk_rows + 1, -(-high // self.chunk_rows)))
        first = chunks.start * self.chunk_rows
        rows: Array = np.concatenate([self.read(chunk) for chunk in chunks])[low - first : high - first]
        return rows

    def __iter__(self) -> Iterator[tuple[int, int, Array]]:
        """Yield the bounds of every chunk with its rows."""
        for chunk in range(self.n_chunks):
            yield *self.bounds(chunk), self.read(chunk)

    def _find(self) -> None:
        self._paths = {int(path.name.split("-")[0]): path for path in self.folder.glob("*-*.npy")}

    def _is_whole(self, chunk: int) -> bool:
        path = self._paths[chunk]
        low, high = self.bounds(chunk)
        try:
            rows = self.read(chunk)
            if path.stem.split("-")[1] == _digest(rows) and len(rows) == high - low:
                return True
        except (OSError, ValueError, EOFError) as error:  # what numpy raises for a file it cannot make sense of
            logger.debug("%s: %s", path, error)
        logger.warning("%s does not hold what was written to it; its rows are done again", path)
        path.unlink(missing_ok=True)
        return False

    def _write(self, chunk: int, rows: Array) -> None:
        path = self.folder / f"{chunk:06d}-{_digest(rows)}.npy"
        write_array(path, rows)
        self._paths[chunk] = path


def write_array(path: Path, rows: Array) -> None:
    """Write an array to a file as a whole.

    Raises:
        OSError: If the disk is full.
    """
    # By way of memory: numpy's own writing to a file does not notice that a disk is full.
    buffer = io.BytesIO()
    np.save(buffer, rows)
    buffer.seek(0)
    with write_whole(path) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(buffer, file)  # in small pieces: ext4 takes five times as long for one large one


class MappedRows:
    """The rows of an array that is complete, mapped into memory: a few of them are read in any order, again and again.

    Args:
        array: The array; its chunks stay mapped, so that a read opens no file.
    """

    def __init__(self, array: ChunkedArray) -> None:
        if not array.is_complete():
            raise FileNotFoundError(
                f"{array.folder} lacks chunks; attach again: attach_clusters(dataset, encoder, guide=True, "
                "overwrite=True)"
            )
        first = np.load(array._paths[0], mmap_mode="r")  # its header has the length of all
        self.dimensions: int = first.shape[1]
        self._dtype = first.dtype
        self._chunk_rows = array.chunk_rows
        self._chunks: list[Array] = []
        for chunk in range(array.n_chunks):
            low, high = array.bounds(chunk)
            shape = (high - low, self.dimensions)
            self._chunks.append(_map(array._paths[chunk], first.offset, first.dtype).reshape(shape))

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Array:
        """Return the (n, d) rows with n numbers, in any order."""
        taken = np.empty((len(rows), self.dimensions), dtype=self._dtype)
        chunks, places = np.divmod(rows, self._chunk_rows)
        for at, (chunk, place) in enumerate(zip(chunks.tolist(), places.tolist(), strict=True)):
            taken[at] = self._chunks[chunk][place]
        return taken


def _map(path: Path, offset: int, dtype: np.dtype[Any]) -> Array:
    """Map what follows the header of a file into memory, and keep no file open: numpy and mmap would keep one each.

    A process may have some hundred files open, and a guide of 4M vectors has a thousand chunks.
    """
    import torch

    mapped = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    rows: Array = mapped[offset:].numpy().view(dtype)
    return rows


def _digest(rows: Array) -> str:
    state = xxhash.xxh3_64(f"{rows.dtype} {rows.shape}".encode())
    state.update(np.ascontiguousarray(rows).view(np.uint8).data)
    return state.hexdigest()


def hash_array(array: Array) -> str:
    """Hash the values of an array, to name what was made of it."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)
