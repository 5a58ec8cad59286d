"""Run a finished example: see `python scripts/example.py --help`."""

from gmm_lightning.app.example import main

if __name__ == "__main__":
    main()
