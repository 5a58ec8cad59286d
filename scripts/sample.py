"""Draw new rows from a finished run: see `python scripts/sample.py --help`."""

from gmm_lightning.app.command import sample

if __name__ == "__main__":
    sample()
