"""Vega-Lite drawn: as SVG for where scripts are off, and the scripts that draw it in a browser, without a network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sparring.errors import SparringError

VEGA_LITE = "6.4"  # that of Altair 6
INSTALL = "pip install 'sparring[report]'"


def installed() -> bool:
    """Whether charts can be drawn: vl-convert is there."""
    try:
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which defines `vegaEmbed`.

    Raises:
        SparringError: it holds what would end the page's script element.
    """
    import vl_convert

    bundle = str(vl_convert.javascript_bundle(vl_version=VEGA_LITE))  # type: ignore[call-arg]  # its stub lacks the default
    if "</script" in bundle.lower():
        raise SparringError(f"the scripts of vl-convert cannot be put into a page. Install another: {INSTALL}.")
    return bundle


def svg(spec: Mapping[str, Any], name: str) -> str:
    """A chart as an SVG element whose ids begin with `name`, so that several are on one page."""
    import vl_convert

    drawn: str = vl_convert.vegalite_to_svg(dict(spec), vl_version=VEGA_LITE)
    return re.sub(r'((?:id="|url\(#))', rf"\g<1>{name}-", drawn)
