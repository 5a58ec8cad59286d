"""Labels travel with their rows: through data modules, shards, processes and checkpoints.

That two processes equal one is seen in `test_ddp.py`, by the same checks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.lightning_runs import distance, state
from support.two_process_fits import LABELS, START, labelled, labelled_layer, rows, soft_labels

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.rows import Batch


def fitted(layer: GMMLayer, batch: Batch, **options: int) -> dict[str, torch.Tensor]:
    fit_em(layer, batch, initializer=START, max_iter=4, tol=0.0, **options)
    return state(layer)


@pytest.mark.parametrize("kind", ["hard", "soft", "shards"])
def test_a_data_module_and_a_callback_fit_as_fit_em_with_the_same_labels(
    tmp_path: Path, kind: str
) -> None:
    labels = soft_labels() if kind == "soft" else LABELS
    batch = Batch(rows(51), labels=labels)
    result = labelled(kind)(tmp_path)
    ours = {name: value for name, value in result.items() if name.startswith("layer.")}
    expected = fitted(labelled_layer(), batch)
    # The same sums in another order: four passes carry on what rounding of one leaves.
    close = 1e-11
    assert distance(ours, {f"layer.{name}": value for name, value in expected.items()}) < close
    assert distance(fitted(labelled_layer(), batch, chunk_size=7), expected) < close
    # Labels matter: without them the fit is another one.
    assert distance(fitted(GMMLayer(2, 3, priors="niw"), batch), expected) > 1e-3
