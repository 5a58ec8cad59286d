"""What is said of a fit that ends by an error of torch."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest

from gmm_lightning.app import watch
from gmm_lightning.app.processes import LostProcessError
from gmm_lightning.errors import CheckpointError
from gmm_lightning.training import going_on


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("DefaultCPUAllocator: can't allocate memory", RuntimeError),
        ("CUDA out of memory.", RuntimeError),
        ("The size of tensor a must match", CheckpointError),
    ],
)
def test_too_little_memory_is_not_the_fault_of_a_checkpoint(
    tmp_path: Path, said: str, kind: type[Exception]
) -> None:
    run = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    with pytest.raises(RuntimeError) as caught, going_on(run, tmp_path / "last.ckpt", 3):
        raise RuntimeError(said)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]", LostProcessError),
        ("NCCL error: remote process exited or there was a network error", LostProcessError),
        ("Distributed package doesn't have NCCL built in", RuntimeError),
    ],
)
def test_only_a_lost_process_is_called_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(watch, "use_launcher", lambda _: None)
    with pytest.raises(kind) as caught, watch.ProcessWatch(tmp_path):
        raise RuntimeError(said)
    assert type(caught.value) is kind
