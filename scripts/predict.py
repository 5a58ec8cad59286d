"""Label the rows of a file: see `python scripts/predict.py --help`."""

from gmm_lightning.app.command import predict

if __name__ == "__main__":
    predict()
