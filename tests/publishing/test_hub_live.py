"""Publishing to the real Hub, by whoever wants to.

    ST_CLUSTER_HUB_E2E=1 HF_TOKEN=hf_... pytest tests/publishing/test_hub_live.py

The authors have not run it there, for want of access to the Hub; what they have run is the same steps on the loopback
Hub. It never runs in CI. It makes one tiny private model in the token's own namespace, and deletes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from examples import make_static_model
from hub_client import HubClient
from loopback_hub import LoopbackHub

from st_cluster_batches.publishing.staging import build_model

TEXTS = ["soup bread", "king rook"]


def check_private_model(environment: Mapping[str, str], tmp_path: Path) -> None:
    model = make_static_model()
    model.save(str(tmp_path / "plain"))
    stage = build_model(tmp_path / "plain", tmp_path / "stage")
    with HubClient({"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), **environment}) as client:
        found = client.call("try_private_model", stage=str(stage), texts=TEXTS)
    assert found["private"] and "model.safetensors" in found["uploaded"] and found["uploaded again"] == []
    assert found["different"] == ["README.md"]  # in which the repository's id is filled in
    np.testing.assert_array_equal(found["embeddings"], model.encode(TEXTS))
    assert found["deleted"]


# Skipped without a token, since it writes to a real account; the test below takes the same steps on the loopback Hub.
@pytest.mark.skipif(
    os.environ.get("ST_CLUSTER_HUB_E2E") != "1" or not os.environ.get("HF_TOKEN"),
    reason="writes to the real Hub: set ST_CLUSTER_HUB_E2E=1 and HF_TOKEN to a token with write access",
)
def test_the_real_hub_takes_and_returns_a_private_model(tmp_path: Path) -> None:
    """Not run by the authors: see above."""
    check_private_model({}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("xet", [False, True])
def test_the_same_steps_work_on_the_loopback_hub(tmp_path: Path, xet: bool) -> None:
    with LoopbackHub() as hub:
        check_private_model(hub.environment(tmp_path / "home", xet=xet), tmp_path)
        assert not hub.repositories and any("/api/repos/delete" in one for one in hub.requests)
