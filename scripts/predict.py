"""Label the rows of a file: see `python scripts/predict.py --help`."""

from gmm_lightning.app.predict import main

if __name__ == "__main__":
    main()
