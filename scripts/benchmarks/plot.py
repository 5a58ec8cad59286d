"""The ratios of a run as bars."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import Bar


def draw(bars: list[Bar], path: Path) -> None:
    """One panel per subject, on a logarithmic axis; to the right of 1, ours is better."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = {bar.panel: [b for b in bars if b.panel == bar.panel] for bar in bars}
    if not panels:
        return
    sizes = [len(own) + 2 for own in panels.values()]
    figure, axes = pyplot.subplots(
        len(panels),
        figsize=(8, 0.24 * sum(sizes) + 0.5),
        squeeze=False,
        sharex=True,
        height_ratios=sizes,
        layout="constrained",
    )
    for axis, (panel, own) in zip(axes[:, 0], panels.items(), strict=True):
        values = [bar.value for bar in own]
        colours = ["#33658a" if value >= 1 else "#c8553d" for value in values]
        drawn = axis.barh(range(len(own)), [v - 1 for v in values], left=1, color=colours)
        axis.bar_label(drawn, [f" {value:.2g} " for value in values], fontsize=7)
        axis.set_yticks(range(len(own)), [bar.label for bar in own], fontsize=7)
        axis.set_title(panel, fontsize=9, loc="left")
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("times as fast (above 1: gmm_lightning)", fontsize=8)
    axes[-1, 0].margins(x=0.15)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
