"""Fit a Gaussian mixture: see `python scripts/train.py --help`."""

from gmm_lightning.app.command import train

if __name__ == "__main__":
    train()
