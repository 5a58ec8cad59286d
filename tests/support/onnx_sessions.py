"""What onnxruntime makes of a module: exported with a few rows, run with others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name)


def answers(module: nn.Module, few: tuple[Tensor, ...], many: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs for `many` of a graph exported with `few`, their number of rows left open."""
    import onnxruntime

    rows = {0: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        module.cpu(),
        tuple(x.cpu() for x in few),
        dynamo=True,
        dynamic_shapes=tuple(rows for _ in few),
        verbose=False,
    )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    given = {name: x.cpu().numpy() for name, x in zip(names, many, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, given)]
