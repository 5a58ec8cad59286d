"""The README is run: its Python in order, its commands as far as composing them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from gmm_lightning.app.configs import config_dir

README = (Path(__file__).parent.parent / "README.md").read_text()
# Commands on runs and files are run as a user would in tests/app.
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if "python scripts/train.py" in line and not {"--help", "-m", "data=file"} & set(line.split())
]


def test_python_blocks_run_in_order():
    # The block that reads a checkpoint needs one: tests/app runs it.
    blocks = re.findall(r"(?<!plain torch -->\n)```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    default = torch.get_default_dtype()
    names: dict[str, object] = {"__name__": "readme"}
    try:
        # A reader's session has torch's own default, not the suite's.
        torch.set_default_dtype(torch.float32)
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    finally:
        torch.set_default_dtype(default)
    assert names["result"].converged
    # The README's mixture has weights 0.3 and 0.7, and 1,000 rows put them within 5 per cent.
    assert sorted(names["layer"].weights.tolist()) == pytest.approx([0.3, 0.7], abs=0.05)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command):
    overrides = shlex.split(command, comments=True)[2:]
    with initialize_config_dir(config_dir(), version_base="1.3"):
        assert compose("train", overrides).model.layer


def test_the_sacred_commands_are_named():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in ("train", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
