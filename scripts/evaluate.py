"""Evaluate a finished run: see `python scripts/evaluate.py --help`."""

from gmm_lightning.app.command import evaluate

if __name__ == "__main__":
    evaluate()
