"""`gmm-example NAME`: finished examples, from data to table and pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from gmm_lightning.app.command import run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of `scripts/example.py` and of the command `gmm-example`."""
    first = sys.argv[1] if len(sys.argv) > 1 else "="
    if "=" not in first and not first.startswith("-"):
        # `gmm-example moons most=10` says the same as `recipe=moons recipe.most=10`.
        sys.argv[1:] = [f"recipe={first}", *map(in_recipe, sys.argv[2:])]
    run("example", example)


def in_recipe(word: str) -> str:
    """An option of the recipe by its full name; words of the command itself stay."""
    key = word.partition("=")[0]
    own = not key.isidentifier() or key in ("output", "recipe") or "=" not in word
    return word if own else f"recipe.{word}"


def example(config: DictConfig) -> None:
    """Run the recipe, tell what it found, and leave its pictures in a folder.

    Raises:
        InvalidArgumentError: an option that the recipe does not have, or a value out of range.
    """
    from pathlib import Path
    from tempfile import TemporaryFile

    from hydra.utils import get_method

    from gmm_lightning.app.checks import require_path
    from gmm_lightning.app.configs import config_dir
    from gmm_lightning.app.recipes.account import Account
    from gmm_lightning.errors import InvalidArgumentError

    require_path("output", config.output)
    if config.recipe is None:
        known = sorted(path.stem for path in Path(config_dir(), "recipe").glob("*.yaml"))
        raise InvalidArgumentError(
            f"say which example: gmm-example NAME, one of {', '.join(known)}"
        )
    options = {str(key): value for key, value in config.recipe.items() if key != "_target_"}
    recipe = get_method(config.recipe["_target_"])
    require_options(recipe, options)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    # Better now than after a minute of work.
    with TemporaryFile(dir=folder):
        pass
    account = Account(folder)
    recipe(account, **options)
    account.close()


def require_options(recipe: Callable[..., None], options: dict[str, Any]) -> None:
    """Refuse a word where a recipe takes a number, and numbers that say nothing.

    Raises:
        InvalidArgumentError: naming the option, what it takes and what came.
    """
    from gmm_lightning._validation import require_integer, require_number
    from gmm_lightning.errors import InvalidArgumentError

    hints = get_type_hints(recipe)
    for name, value in options.items():
        hint = hints.get(name)
        if hint is None:
            known = ", ".join(sorted(set(hints) - {"account", "return"}))
            raise InvalidArgumentError(f"unknown option recipe.{name}; known are: {known}")
        if hint is int:
            require_integer(f"recipe.{name}", value, least=0 if name == "seed" else 1)
        elif hint is float:
            require_number(f"recipe.{name}", value, least=0)
            if name.endswith("fraction") and not 0 < value < 1:
                raise InvalidArgumentError(f"recipe.{name} must be between 0 and 1, got {value}")


if __name__ == "__main__":
    main()
