"""Fit a Gaussian mixture: see `python scripts/train.py --help`."""

from gmm_lightning.app.train import main

if __name__ == "__main__":
    main()
