"""The artefact that clustering leaves: centroids that label new rows as they labelled the old ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.artefact import (
    CENTROIDS_FILE,
    ENCODER_FOLDER,
    MANIFEST_FILE,
    find_folder,
    read_manifest,
    save_encoder,
)
from st_cluster_batches.clusters.assign_input import check_vectors, read_rows, split_texts
from st_cluster_batches.clusters.assigning import number_clusters
from st_cluster_batches.clusters.choice import Choice, find_tuned, tell_of_chunks
from st_cluster_batches.clusters.choice_checks import (
    check_known,
    compare_columns,
    compare_guide,
    tell_of_keyless,
    tell_of_middles,
)
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.kmeans import Centroids, NearestCentroid, Vectors
from st_cluster_batches.clusters.labelling import check_threshold, label_rows
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.clusters.sizes import warn_of_new_sizes
from st_cluster_batches.clusters.stream import label_stream
from st_cluster_batches.clusters.vectors import PairVectors, join_sides
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.pairs import Key, PairOptions, Pairs, as_datasets, prepare_parts, sides_of
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.storage.cache import default_cache_dir, make_folder, write_atomically, write_whole
from st_cluster_batches.storage.chunks import hash_array
from st_cluster_batches.storage.numbers import as_count
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset
    from sentence_transformers import SentenceTransformer

    AnyEncoder: TypeAlias = str | Path | SentenceTransformer

logger = logging.getLogger(__name__)

AnyDataset = TypeVar("AnyDataset", "Dataset", "DatasetDict", "IterableDataset")


@dataclass(frozen=True)
class Clustering:
    """Centroids of every source, and how they came to be.

    Args:
        centroids: For each source a (k, d) float32 array of unit rows, ordered along a path through space, so that
            neighbours in number are neighbours in meaning.
        manifest: Encoder, key, seed, sizes and whatever else tells one clustering from another.
        encoder: The model that the centroids were made with; None where no text is to be embedded.
    """

    centroids: dict[str, Centroids]
    manifest: dict[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = field(default=None, repr=False, compare=False)

    @property
    def tuned(self) -> Choice | None:
        """The choice that sizes of clusters come from, if they were tuned."""
        return find_tuned(self.manifest)

    def first_cluster(self, source: str) -> int:
        """Return the number of a source's first cluster; see `number_clusters`."""
        return self._first_clusters[source]

    @cached_property
    def _first_clusters(self) -> dict[str, int]:
        # Numbers are hashes of all centroids: a stream asks for them with every batch.
        return number_clusters(self.centroids)

    def attach(
        self,
        dataset: AnyDataset,
        *,
        columns: Columns | None = None,
        source_column: str | None = SOURCE,
        false_negative_threshold: float | None = None,
        batch_size: int | None = None,
        overwrite: bool = False,
        cache_dir: str | Path | None = None,
        show_progress_bar: bool = True,
        guide: bool = False,
        guide_model: str | Path | SentenceTransformer | None = None,
    ) -> AnyDataset:
        """Label rows, old or new, by their nearest centroid.

        Args:
            dataset: Pairs, triplets or longer tuples of text. An IterableDataset is labelled as it is read; trainers
                take no batch sampler for it, so export_batches(Dataset.from_list(list(stream)), ...) writes them.
            columns: Query, positive, negatives, in order; see `attach_clusters`.
            source_column: Column that names the source of a row. Its values must be known to the clustering.
            false_negative_threshold: See `attach_clusters`; not for an IterableDataset.
            batch_size: Texts that the encoder sees at once; by the kind of encoder if None.
            overwrite: Whether to replace label columns that the dataset has.
            cache_dir: Where embeddings and labels are kept; a folder in the datasets cache by default.
            show_progress_bar: Whether to show progress.
            guide: See `attach_clusters`; not for an IterableDataset.
            guide_model: The same.

        Returns:
            The dataset with the columns `cluster` and `false_negative_keys` after its own.

        Raises:
            ValueError: If the rows do not fit, or the encoder is not the one that the centroids were made with.
        """
        from datasets import DatasetDict, IterableDataset

        key: Key = self.manifest["key"]
        tell_of_chunks(self.tuned)
        tell_of_middles(self.manifest, list(self.centroids))
        has_guide = guide or guide_model is not None
        tell_of_keyless(self.tuned, has_guide, isinstance(dataset, IterableDataset))
        encoder = self.get_encoder()
        if batch_size is not None:
            encoder = encoder.with_batch_size(as_count("batch_size", batch_size))
        if isinstance(dataset, IterableDataset):
            for name, value in (("false_negative_threshold", false_negative_threshold), ("guide", has_guide or None)):
                if value is not None:
                    raise ValueError(f"{name}= needs all rows at once, which an IterableDataset does not give")
            as_they_come = PairOptions(source_column, overwrite=overwrite, columns=columns)
            return label_stream(dataset, replace(self, encoder=encoder).assign, self.manifest, as_they_come)
        options = AttachOptions(
            ClusterOptions(key=key),
            columns=columns,
            source_column=source_column,
            false_negative_threshold=false_negative_threshold,
            overwrite=overwrite,
            guide=guide,
            guide_model=guide_model,
        )
        dataset = as_datasets(dataset, "Clustering.attach")
        with SharedCache.open(cache_dir, show_progress_bar, "Clustering.attach") as cache:
            parts = prepare_parts(dataset, options.pairs, cache.show_progress_bar)
            compare_columns(self.manifest, {part.name: part.text_columns for part in parts})
            check_threshold(parts, options.false_negative_threshold)
            vectors = [PairVectors(self._name_sources(part), encoder, cache) for part in parts]
            masking = encoder.load_beside(guide_model)
            if self.tuned is not None and has_guide:
                compare_guide(self.tuned, masking, is_given=guide_model is not None)
            guides = [replace(one, encoder=masking) for one in vectors] if has_guide else None
            unmasked = frozenset() if self.tuned is None else self.tuned.unmasked_sources
            threshold = options.false_negative_threshold
            labelled, _ = label_rows(vectors, self.centroids, key, threshold, guides, unmasked)
            if cache.processes.is_main:
                warn_of_new_sizes(zip((one.pairs for one in vectors), labelled, strict=True), self.manifest)
        named = {part.name: one for part, one in zip(parts, labelled, strict=True)}
        return DatasetDict(named) if isinstance(dataset, DatasetDict) else named[""]

    def _name_sources(self, part: Pairs) -> Pairs:
        """Return a dataset with names of sources that are known: with its own name before them, or without.

        Raises:
            ValueError: If they are not known in either way.
        """
        plain = replace(part, names_sources=False)
        if not set(part.sources) <= set(self.centroids) and set(plain.sources) <= set(self.centroids):
            return plain  # one of several datasets, such as a split, of what was clustered by itself
        check_known(part.sources, self.centroids)
        return part

    def assign(
        self, texts_or_vectors: Sequence[Any] | Vectors, source: str | Sequence[str] | None = None
    ) -> npt.NDArray[np.int64]:
        """Find the clusters of some texts or vectors.

        Args:
            texts_or_vectors: n texts as the key says: queries, passages, or (query, passage) tuples where it is
                `both`; or the (n, d) array of their vectors, of any length but zero.
            source: The source of all, or of each. The only one by default.

        Returns:
            (n,) int64 cluster numbers, as `attach` gives them.

        Raises:
            TypeError: If it is one text, or rows are neither texts nor vectors.
            ValueError: If a source is unknown, a text is blank, or a vector has no direction or other dimensions.
        """
        rows = read_rows(texts_or_vectors)
        if source is None and len(self.centroids) > 1:
            raise ValueError(f"The clustering has the sources {list(self.centroids)}; say which: assign(..., source=)")
        given = next(iter(self.centroids)) if source is None else source
        sources = np.asarray(given) if np.ndim(given) else np.full(len(rows), given)
        if len(sources) != len(rows):
            raise ValueError(f"{len(sources)} sources for {len(rows)} rows")
        check_known(sources.tolist(), self.centroids)
        vectors = self._to_vectors(rows)
        clusters = np.empty(len(vectors), dtype=np.int64)
        for name in sorted(set(sources.tolist())):
            at = np.flatnonzero(sources == name)
            nearest = NearestCentroid(self.centroids[name]).find(vectors[at])[0]
            clusters[at] = nearest + self.first_cluster(name)
        return clusters

    def get_encoder(self) -> Encoder:
        """Return the encoder, which is loaded when it first embeds a text.

        Raises:
            ValueError: If the clustering was not made with any.
        """
        if self.encoder is None:
            raise ValueError("The clustering has no encoder: its manifest names none; fit one: fit_clusters(...)")
        return self.encoder

    def with_encoder(
        self, encoder: AnyEncoder, cache_dir: Path | None = None, trust_remote_code: bool = False
    ) -> Clustering:
        """Return the clustering with its encoder from another place, checked.

        Args:
            encoder: A model, whose prompts and maximal length are left as they are, or the name of one.
            cache_dir: Where distilled models are kept; a folder in the datasets cache by default.
            trust_remote_code: Whether code that comes with the model may run.

        Raises:
            ValueError: If it is another model.
        """
        dimensions, folder = self.manifest["truncate_dim"], cache_dir or default_cache_dir()
        given = Encoder(encoder, folder, dimensions, manifest=self.manifest, trust_remote_code=trust_remote_code)
        _ = given.model  # loaded, and so checked
        return replace(self, encoder=given)

    def save(self, directory: str | Path) -> None:
        """Write `centroids.safetensors` and `clustering.json` into a folder.

        A distilled encoder is written beside them: another machine's arithmetic would distil slightly other weights.
        """
        from safetensors.numpy import save

        directory = Path(directory).expanduser()
        make_folder(directory)
        with write_whole(directory / CENTROIDS_FILE) as temporary:
            temporary.write_bytes(save({f"source {at}": array for at, array in enumerate(self.centroids.values())}))
        save_encoder(self.encoder, str(self.manifest.get("encoder")), directory / ENCODER_FOLDER)
        hashes = {name: hash_array(array) for name, array in self.centroids.items()}
        # Last, since a folder with a manifest counts as complete.
        manifest = {**self.manifest, "centroids": hashes}
        write_atomically(directory / MANIFEST_FILE, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(
        cls, name: str | Path, *, encoder: AnyEncoder | None = None, trust_remote_code: bool = False
    ) -> Clustering:
        """Read a clustering that `save` wrote.

        Args:
            name: The folder, or a Hub id: of a data set, or else of a model.
            encoder: The model that it was made with, or where it lies. By default the distilled one that was saved
                with it, or else the one that the manifest names, is loaded once texts are to be embedded.
            trust_remote_code: Whether code that comes with the encoder may run.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If centroids and manifest do not fit together, or the encoder is another one.
        """
        from safetensors.numpy import load_file

        folder = find_folder(name)
        manifest = read_manifest(folder)
        arrays = load_file(folder / CENTROIDS_FILE)
        hashes = manifest.pop("centroids")
        centroids = {source: arrays[f"source {at}"] for at, source in enumerate(hashes)}
        if {source: hash_array(array) for source, array in centroids.items()} != hashes:
            raise ValueError(f"{name}: {CENTROIDS_FILE} does not hold what {MANIFEST_FILE} says; load both again")
        if encoder is not None:
            return cls(centroids, manifest).with_encoder(encoder, trust_remote_code=trust_remote_code)
        if "encoder" not in manifest:
            return cls(centroids, manifest)
        kept = folder / ENCODER_FOLDER
        given, dimensions = str(kept) if kept.is_dir() else manifest["encoder"], manifest["truncate_dim"]
        named = Encoder(given, default_cache_dir(), dimensions, manifest=manifest, trust_remote_code=trust_remote_code)
        return cls(centroids, manifest, named)

    def _to_vectors(self, rows: npt.NDArray[Any] | list[Any]) -> Vectors:
        dim = next(iter(self.centroids.values())).shape[1]
        if isinstance(rows, np.ndarray):
            return check_vectors(rows, dim)
        if not rows:
            return np.empty((0, dim), dtype=np.float32)
        key, encode = self.manifest["key"], self.get_encoder().encode
        texts = split_texts(rows, key)
        return join_sides([encode(side, own) for side, own in zip(sides_of(key), texts, strict=True)])
