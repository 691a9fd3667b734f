"""Clusters of the model that is being trained: made before an epoch, kept beside the checkpoints, read on resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sentence_transformers import SentenceTransformer, SparseEncoder

from st_cluster_batches.batches.callers import find_name
from st_cluster_batches.clusters.assigning import assign_rows, read_clusters
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.fitting import fit_vectors
from st_cluster_batches.clusters.guide import GuideVectors
from st_cluster_batches.clusters.guide_index import write_guide
from st_cluster_batches.clusters.options import ClusterOptions
from st_cluster_batches.clusters.sizes import warn_of_sizes, warn_of_whole_sources
from st_cluster_batches.clusters.vectors import PairVectors, Renewal
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.pairs import PairOptions, Pairs, Side
from st_cluster_batches.data.roles import find_contents
from st_cluster_batches.plans.options import StartError
from st_cluster_batches.refresh.effect import measure_move, measure_planned, tell_of_refresh
from st_cluster_batches.refresh.folder import RefreshFolder
from st_cluster_batches.refresh.guided_losses import find_guided_losses, read_row_keys
from st_cluster_batches.refresh.mining import NEGATIVES_FOLDER, mine_negatives
from st_cluster_batches.refresh.schedule import RefreshedSampler, RefreshOptions
from st_cluster_batches.refresh.trained_encoder import TrainedColumn, TrainedEncoder
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS
from st_cluster_batches.storage.chunks import ChunkedArray
from st_cluster_batches.storage.processes import ProcessGroup
from st_cluster_batches.storage.shared_cache import SharedCache

logger = logging.getLogger(__name__)

_MEASURED_ROWS = 512  # of batches before and after, whose hardness is measured

Numbers = npt.NDArray[np.integer[Any]]


@dataclass
class Refresher:
    """Refreshes the clusters of a trainer's samplers.

    Args:
        trainer: The trainer, whose model is taken as it is.
    """

    trainer: Any
    _pairs: dict[int, Pairs] = field(default_factory=dict)
    _guides: dict[int, GuideVectors] = field(default_factory=dict)

    @property
    def folder(self) -> RefreshFolder:
        """What is kept of the refreshes, beside the checkpoints."""
        return RefreshFolder.of(self.trainer.args.output_dir)

    @property
    def place(self) -> Path:
        """Where that is."""
        return self.folder.path

    def list_records(self, number: int) -> list[dict[str, Any]]:
        """Return what the refreshes of a dataset have cost and changed."""
        return self.folder.list_records(number)

    def start(self, epoch: int, samplers: Sequence[RefreshedSampler]) -> None:
        """Check what a refresh needs, hours before the first one, and forget the clusters of models that are no more.

        Args:
            epoch: The epoch that training starts or goes on with: clusters of later ones are removed.
            samplers: The samplers of the training datasets that are to be refreshed.

        Raises:
            ValueError: If the weights are spread over the processes, or rows or loss lack what is to be refreshed.
        """
        if getattr(self.trainer, "is_fsdp_enabled", False) or getattr(self.trainer, "is_deepspeed_enabled", False):
            raise StartError(
                "refresh= embeds with the model on each process by itself, and under FSDP or DeepSpeed no process has "
                "all weights; train with DDP, or attach clusters beforehand: attach_clusters(dataset, encoder)"
            )
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if not isinstance(model, SentenceTransformer | SparseEncoder):
            raise StartError(
                f"refresh= clusters the vectors of the model that is trained, and a {type(model).__name__} makes none "
                "of a text by itself; attach clusters beforehand: attach_clusters(dataset, encoder)"
            )
        for number, sampler in enumerate(samplers):
            pairs, name = self._read_pairs(sampler, number), find_name(self.trainer, sampler.dataset)
            if sampler.refresh.mine and pairs.targets:
                raise StartError(
                    f"refresh=Refresh(mine={sampler.refresh.mine}) looks for passages that do not answer a query, but "
                    f"{pairs.targets}{f' of {name!r}' if name else ''} say what each pair is; take them out, or leave "
                    "mine= away"
                )
            if self.trainer.is_world_process_zero():
                warn_of_whole_sources(pairs.rows_of_source, _choose_clusters(sampler.refresh), "Refresh", name)
            if sampler.refresh.guide:
                read_row_keys(sampler.dataset, name)
                find_guided_losses(self.trainer.loss)
        with ProcessGroup.current("refreshing clusters") as processes:
            processes.once(lambda: self.folder.remove_later(epoch, not self.trainer.state.global_step), None)

    def refresh(self, samplers: Sequence[RefreshedSampler], epoch: int, is_start: bool) -> None:
        """Give every sampler the clusters of an epoch: read where they have been made, made of the model otherwise.

        Args:
            samplers: The samplers of the training datasets.
            epoch: The epoch that begins, or goes on.
            is_start: Whether no step of it has been done yet.

        Raises:
            ValueError: If clusters are missing that only a model of earlier could give.
        """
        for number, sampler in enumerate(samplers):
            due = sampler.find_refresh(epoch)
            if due is None or due == sampler.refreshed_at:
                continue
            is_made = self.folder.is_made(due, number)
            if not is_made and not (due == epoch and is_start):
                folder = self.folder.at(due, number)
                raise StartError(
                    f"The clusters of epoch {due} were made of the model as it was then, and are not in {folder}. Put "
                    "them beside the checkpoint again, resume from a checkpoint at the end of an epoch, or start anew "
                    "with resume_from_checkpoint=None"
                )
            with SharedCache.open(self.folder.work, True, "refreshing clusters") as cache:
                if is_made:
                    self._read(sampler, number, due, cache)
                    self._load_guide(due, number)
                    continue
                last = sampler.find_refresh(epoch - 1)
                if last not in (None, sampler.refreshed_at) and self.folder.is_made(last, number):
                    self._read(sampler, number, last, cache)  # after a resume: what the new ones are compared with
                self._make(sampler, number, due, cache)

    def _read(self, sampler: RefreshedSampler, number: int, due: int, cache: SharedCache) -> None:
        """Give a sampler the clusters that were made at the start of an epoch."""
        folder = self.folder.at(due, number)
        array = ChunkedArray.at(folder, len(sampler.dataset))
        array.fill(_refuse_damaged(folder), cache, "Reading clusters")
        sampler.relabel(due, array.slice(0, array.n_rows))

    def _make(self, sampler: RefreshedSampler, number: int, epoch: int, cache: SharedCache) -> None:
        """Embed, cluster and assign together with the other processes, and write down what has come of it."""
        started = time.perf_counter()
        refresh, pairs = sampler.refresh, self._read_pairs(sampler, number)
        name = find_name(self.trainer, sampler.dataset)
        folder = self.folder.at(epoch, number)
        last, last_vectors = self.folder.find_last(sampler.find_refresh(epoch - 1), number)
        encoder = self._make_encoder(sampler.dataset, pairs, refresh, cache)
        options = _choose_clusters(refresh)
        vectors = PairVectors(pairs, encoder, cache, _renew(refresh, epoch, last_vectors, pairs, options))
        clustering = fit_vectors([vectors], options, cache, None if last is None else last.centroids)
        if last is None and cache.processes.is_main:  # once: those of later epochs start from these
            remedy = f"Refresh(cluster_size=) of fewer than {refresh.cluster_size} splits it"
            warn_of_sizes(clustering.manifest["statistics"], options, remedy, name)
        centroids = clustering.centroids
        sizes = [len(centroids[source]) for source in pairs.sources]
        first = dict(zip(pairs.sources, np.cumsum([0, *sizes]).tolist(), strict=False))
        nearest = assign_rows(vectors, refresh.key, centroids)
        clusters = read_clusters(pairs, nearest, first, 0, len(pairs)).astype(np.int32)
        array = ChunkedArray.at(folder, len(pairs))
        array.fill(lambda chunk: clusters[slice(*array.bounds(chunk))], cache, "Writing clusters")
        index = write_guide(vectors, read_row_keys(sampler.dataset)) if refresh.guide else None
        record = cache.processes.decide(
            lambda: self._compare(sampler, vectors, clusters, {"epoch": epoch, "dataset": number})
        )
        if refresh.mine:
            record["mined"] = mine_negatives(vectors, sampler, refresh, folder / NEGATIVES_FOLDER)

        def finish() -> None:
            record["seconds"] = round(time.perf_counter() - started, 2)
            names = vectors.name(refresh.key) if refresh.sample < 1 else []
            kept = {"vectors": names, "guide": None if index is None else index.name}
            self.folder.finish(Clustering(centroids), {**record, **kept})
            self.folder.clean(sampler, epoch, self.trainer.state.global_step)

        cache.processes.once(finish, None)
        sampler.relabel(epoch, clusters)
        self._load_guide(epoch, number)
        if self.trainer.is_world_process_zero():
            tell_of_refresh(record, name)

    def _read_pairs(self, sampler: RefreshedSampler, number: int) -> Pairs:
        """Read the texts as the collator gets them, in its order."""
        if number not in self._pairs:
            dataset = sampler.dataset
            texts = tuple(name for name in find_contents(dataset) if name not in NO_TEXT_COLUMNS)
            has_sources = SOURCE in sampler.hidden_columns and SOURCE in dataset.column_names
            key, mine = sampler.refresh.key, sampler.refresh.mine
            option = f"mine={mine}" if mine else f"key={key!r}"
            needs_passages = f"refresh=Refresh({option})" if mine or key != "query" else None
            options = PairOptions(
                SOURCE if has_sources else None, overwrite=True, needs_passages=needs_passages, columns=texts
            )
            self._pairs[number] = Pairs.prepare("", dataset, options, show_progress_bar=False)
        return self._pairs[number]

    def _make_encoder(self, dataset: Any, pairs: Pairs, refresh: RefreshOptions, cache: SharedCache) -> TrainedEncoder:
        columns: dict[Side, str] = {"query": pairs.text_columns[0], "passage": pairs.text_columns[:2][-1]}
        name = find_name(self.trainer, dataset)
        return TrainedEncoder(
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            cache.folder,
            batch_size=refresh.batch_size,
            columns={side: TrainedColumn.of(self.trainer.args, name, one) for side, one in columns.items()},
            accelerator=self.trainer.accelerator,
        )

    def _compare(
        self, sampler: RefreshedSampler, vectors: PairVectors, clusters: Numbers, about: dict[str, Any]
    ) -> dict[str, Any]:
        """Compare the clusters with those before, and the batches with those that they would have been."""
        record: dict[str, Any] = {**about, "clusters": int(clusters.max()) + 1}
        if (before := sampler.clusters) is not None:
            record["moved"] = measure_move(before, clusters)
        other = sampler.make_plan(sampler.options.strata_of(about["epoch"]), clusters)
        planned = [sampler.plan_epoch(), other.plan_epoch(about["epoch"])]
        for name, plan in zip(("hardness_before", "hardness_after"), planned, strict=True):
            if len(plan.rows) and plan.rows.shape[1] > 1:  # a row by itself has no negatives in its batch
                n_batches = max(1, _MEASURED_ROWS // plan.rows.shape[1])
                record[name] = measure_planned(vectors, plan.rows[plan.order[:n_batches]].astype(np.int64))
        return record

    def _load_guide(self, epoch: int, number: int) -> None:
        """Give the guided losses the new vectors, beside those of the other datasets."""
        name = self.folder.read(epoch, number)["guide"]
        if name is None:
            return
        self._guides[number] = GuideVectors.open_index(self.folder.work / name)
        indices = tuple(index for _, guide in sorted(self._guides.items()) for index in guide.indices)
        for loss in find_guided_losses(self.trainer.loss):
            loss.guide = GuideVectors(indices)


def _choose_clusters(refresh: RefreshOptions) -> ClusterOptions:
    return ClusterOptions(cluster_size=refresh.cluster_size, key=refresh.key, seed=refresh.seed, niter=refresh.niter)


def _renew(
    refresh: RefreshOptions, epoch: int, last: Sequence[str], pairs: Pairs, options: ClusterOptions
) -> Renewal | None:
    """Draw the rows that are embedded anew, and all of a source of which fewer than its clusters would be drawn."""
    if refresh.sample == 1 or not last:
        return None
    is_fresh = np.random.default_rng([refresh.seed, epoch]).random(len(pairs)) < refresh.sample
    drawn, sizes = (
        np.bincount(rows, minlength=len(pairs.sources))
        for rows in (pairs.source_of_row[is_fresh], pairs.source_of_row)
    )
    needed = [options.count_clusters(int(size), name) for size, name in zip(sizes, pairs.sources, strict=True)]
    return Renewal(tuple(last), is_fresh | (drawn < needed)[pairs.source_of_row])


def _refuse_damaged(folder: Path) -> Any:
    def refuse(chunk: int) -> Numbers:
        raise StartError(
            f"The clusters in {folder} are damaged (chunk {chunk}), and the model that they were made of is no more; "
            "put back what was there, or start anew with resume_from_checkpoint=None"
        )

    return refuse


@dataclass(frozen=True)
class Refresh(RefreshOptions):
    """Clusters of the model as it is now: before some epochs the texts are embedded with it, and clustered.

    The negatives of the epoch are hard for this model, as in ANCE (arXiv 2007.00808); a model that starts from nothing
    has no use for fine clusters before it knows the coarse topics.

    Args:
        first: The first epoch with clusters of the model. Before it batches share what the dataset has: its own
            clusters, or its sources, or nothing.
        every: Epochs that clusters serve.
        cluster_size: Mean rows of a cluster.
        key: The text that decides the cluster: query, passage, or both.
        sample: Share of the rows, drawn anew each time, that is embedded and clustered; the others go to the nearest
            cluster by their last vectors. The first time all are embedded.
        niter: Iterations of k-means, which starts from the last centroids.
        seed: Seed of k-means and of the sample.
        guide: Whether a guided loss gets the new vectors as its guide, in place of those from before training.
        batch_size: Texts that the model embeds at once; by the kind of model if None.
        mine: Explicit negatives of each row to write beside the clusters, for a next run; see `mine_negatives`. This
            run goes on without: its columns cannot grow while they are read.
        mine_margin: Share of the positive's cosine similarity by which such a negative is to stay below it, which is
            `relative_margin` of `mine_hard_negatives`.
    """

    def make_refresher(self, trainer: Any) -> Refresher:
        """Make what embeds and clusters with the model of a trainer."""
        return Refresher(trainer)
