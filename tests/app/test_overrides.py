"""Values between quotes: what goes in comes out, through Hydra's own parser."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gmm_lightning.app.overrides import quoted, unquoted

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
