"""What refreshes leave beside the checkpoints: clusters and records by epoch, and the vectors that they came of."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.guide_index import GuideIndex
from st_cluster_batches.refresh.schedule import RefreshedSampler
from st_cluster_batches.storage.cache import read_json, write_atomically

logger = logging.getLogger(__name__)

FOLDER = "_refreshed_clusters"  # in the trainer's output folder; what begins so is not pushed with it
_CENTROIDS = "centroids"
_DONE = "done"  # the last to be written, so that what has it is whole


def list_checkpoints(output_dir: Path) -> dict[int, Path]:
    """List the checkpoints of a run by their steps, in this order; people keep others beside, as `checkpoint-best`."""
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    found = {path.name.removeprefix(prefix): path for path in output_dir.glob(f"{prefix}*") if path.is_dir()}
    return {int(number): found[number] for number in sorted(filter(str.isdecimal, found), key=int)}


@dataclass(frozen=True)
class RefreshFolder:
    """The folder of a run's refreshes.

    Args:
        path: Where it is; it need not be there yet.
    """

    path: Path

    @classmethod
    def of(cls, output_dir: str | Path) -> RefreshFolder:
        """Return the one beside the checkpoints of a run."""
        return cls(Path(output_dir) / FOLDER)

    @property
    def work(self) -> Path:
        """Where vectors and drafts are."""
        return self.path / "work"

    def at(self, epoch: int, number: int) -> Path:
        """Return where the clusters of one dataset are that were made at the start of an epoch."""
        return self.path / f"epoch-{epoch}-{number}"

    def is_made(self, epoch: int, number: int) -> bool:
        """Return whether these clusters are complete."""
        return (self.at(epoch, number) / _DONE).is_file()

    def read(self, epoch: int, number: int) -> dict[str, Any]:
        """Read what `finish` wrote."""
        record: dict[str, Any] = read_json(self.at(epoch, number) / _DONE)
        return record

    def finish(self, clustering: Clustering, record: dict[str, Any]) -> None:
        """Write the centroids, and then what it cost and changed, where `record` says which epoch and dataset."""
        folder = self.at(record["epoch"], record["dataset"])
        clustering.save(folder / _CENTROIDS)
        write_atomically(folder / _DONE, json.dumps(record))

    def find_last(self, epoch: int | None, number: int) -> tuple[Clustering | None, list[str]]:
        """Return the clustering of an epoch and the names of its vectors, where they are there."""
        if epoch is None or not self.is_made(epoch, number):
            return None, []
        kept = self.read(epoch, number)["vectors"]
        if not all((self.work / one).is_dir() for one in kept):
            text = "The vectors of epoch %d are no more in %s; all rows are embedded, not the sample= of them"
            logger.warning(text, epoch, self.work)
            kept = []
        return Clustering.load(self.at(epoch, number) / _CENTROIDS), kept

    def remove_later(self, epoch: int, is_new_run: bool) -> None:
        """Remove the clusters of epochs after one; of a new run's predecessor, all."""
        for path in self.path.glob("epoch-*"):
            if int(path.name.split("-")[1]) > epoch or is_new_run:
                shutil.rmtree(path)
        if is_new_run:
            shutil.rmtree(self.work, ignore_errors=True)

    def clean(self, sampler: RefreshedSampler, epoch: int, n_steps: int) -> None:
        """Remove drafts, and vectors of models that no run goes on from; the clusters that came of them are kept.

        Args:
            sampler: The sampler that was refreshed.
            epoch: The epoch that begins.
            n_steps: Steps before it.
        """
        steps = max(n_steps, 1)
        saved = [number * epoch // steps for number in list_checkpoints(self.path.parent)]
        oldest = sampler.find_refresh(min([*saved, epoch])) or 0
        records = self._read_all("*")
        newest = {one["dataset"]: one["epoch"] for one in records}
        needed = [one for one in records if one["epoch"] >= min(oldest, newest[one["dataset"]])]
        kept = {name for record in needed for name in record["vectors"]}
        guides = [self.work / one["guide"] for one in needed if one["guide"]]
        # One may have gone already: a checkpoint that was put back makes older epochs needed again.
        kept |= {name for path in guides if path.is_file() for name in GuideIndex.read(path).files}
        for path in self.work.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def list_records(self, number: int) -> list[dict[str, Any]]:
        """Return what the refreshes of one dataset have cost and changed, also those before a resume."""
        return [
            {key: one for key, one in record.items() if key not in ("vectors", "guide")}
            for record in self._read_all(str(number))
        ]

    def _read_all(self, number: str) -> Sequence[dict[str, Any]]:
        """Read the records of one dataset, or of all, in the order of their epochs."""
        found = [read_json(path) for path in self.path.glob(f"epoch-*-{number}/{_DONE}")]
        return sorted(found, key=lambda record: int(record["epoch"]))
