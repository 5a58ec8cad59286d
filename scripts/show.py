"""Show the components of a finished run: see `python scripts/show.py --help`."""

from gmm_lightning.app.command import show

if __name__ == "__main__":
    show()
