"""Judge a finished run: see `python scripts/evaluate.py --help`."""

from gmm_lightning.app.evaluate import main

if __name__ == "__main__":
    main()
