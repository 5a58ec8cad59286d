"""Values between quotes: what goes in comes out, through Hydra's own parser."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gmm_lightning.app.overrides import quoted, unquoted
from gmm_lightning.app.preflight import _quote_path

PIECES = ("a", " ", "'", '"', "\\", "\n", "=", "$", "{x}", "[y]", ",", ":", "#", "é𝄞", "~", "%d")
TEXTS = [a + b + c for a in PIECES for b in PIECES for c in ("", "\\", "'", "\\\\'")]


def test_any_text_survives() -> None:
    parser = OverridesParser.create()
    for text in TEXTS:
        assert parser.parse_override(f"k={quoted(text)}").value() == text, text
        assert unquoted(quoted(text)) == text, text


@pytest.mark.parametrize("text", ["", "'", "plain", "it's", "'open", "a\\b"])
def test_a_value_without_quotes_stays(text: str) -> None:
    assert unquoted(text) == text


def test_paths_are_read_as_a_shell_hands_them_over() -> None:
    parser = OverridesParser.create()
    for path in ("o'brien dir/r1", "x=[1", "it's o'clock"):
        for key in ("run", "data.path"):
            assert parser.parse_override(_quote_path(f"{key}={path}")).value() == path
    for word in ("run='it\\'s'", "run=plain", "cov=[", "run"):
        assert _quote_path(word) == word
