"""`gmm-predict`: component, log-density and outliers for the rows of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmm_lightning.app.command import run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from omegaconf import DictConfig

    from gmm_lightning.training import GMMModule


def main() -> None:
    """Entry point of `scripts/predict.py` and of the command `gmm-predict`."""
    run("predict", predict)


def predict(config: DictConfig) -> None:
    """Read a file block by block and write one row of answers for each of its rows."""
    from gmm_lightning.app.runs import load_run
    from gmm_lightning.datasets.tables import TableWriter, iter_table
    from gmm_lightning.errors import InvalidArgumentError

    if not config.input or not config.output:
        raise InvalidArgumentError(
            "say what to read and where to write: input=new.csv output=labels.csv"
        )
    stored = load_run(config.run)
    threshold = stored.threshold(config.quantile)
    blocks = iter_table(
        config.input,
        columns=stored.columns,
        header=config.header,
        separator=config.separator,
        key=config.key,
        batch_rows=config.batch_rows,
    )
    k = stored.module.layer.num_components
    names = [f"responsibility_{i}" for i in range(k)] if config.responsibilities else []
    columns = ["component", "log_density", "outlier", *names]
    rows = outliers = 0
    with TableWriter(
        config.output, columns, overwrite=config.overwrite, integers=["component", "outlier"]
    ) as table:
        for block in blocks:
            answers = answer(stored.module, block, threshold)
            table.write(answers[:, : len(columns)])
            rows, outliers = rows + len(block), outliers + int(answers[:, 2].sum())
    print(f"{rows} rows, {outliers} outliers (below quantile {config.quantile}): {config.output}")


def answer(module: GMMModule, block: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Component, log-density, outlier and responsibilities, `(n, 3 + K)`."""
    import torch

    with torch.no_grad():
        log_joint = module.layer.log_joint(module.standardize(torch.from_numpy(block)))
        log_prob = log_joint.logsumexp(-1) + module.standardize.log_abs_det
        head = [log_joint.argmax(-1), log_prob, log_prob < threshold]
        return torch.cat(
            [torch.stack([h.double() for h in head], -1), log_joint.softmax(-1).double()], -1
        ).numpy()


if __name__ == "__main__":
    main()
