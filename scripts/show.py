"""Show the components of a finished run: see `python scripts/show.py --help`."""

from gmm_lightning.app.show import main

if __name__ == "__main__":
    main()
