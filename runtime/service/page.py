"""The page and the description of the interface: each one answer, whose policy allows what is in it and no more."""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
h2 { font: 600 1rem ui-monospace, monospace; margin: 2rem 0 .25rem; overflow-wrap: anywhere }
dt { font: .875rem ui-monospace, monospace } dd { margin: 0 0 .5rem 1.5rem }
"""


@cache
def page() -> HTMLResponse:
    """The page."""
    return allowing(PAGE.read_text(encoding="utf-8"))


def allowing(html: str) -> HTMLResponse:
    """A page with the strictest policy under which it works: its own script and style, by their checksums."""
    sums: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        sums[kind].append(f"'sha256-{digest}'")
    policy = [
        "default-src 'none'",
        *(f"{kind}-src {' '.join(found) or chr(39) + 'none' + chr(39)}" for kind, found in sums.items()),
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return HTMLResponse(html, headers={"Content-Security-Policy": "; ".join(policy), "Cache-Control": "no-cache"})


def description(schema: Mapping[str, Any]) -> HTMLResponse:
    """What there is to call, for people, made of the OpenAPI document."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, call in methods.items():
            parts.append(f"<h2>{escape(method.upper())} {escape(path)}</h2>")
            parts.append(f"<p>{escape(call.get('description', call.get('summary', '')))}</p>")
            if parameters := call.get("parameters"):
                items = (
                    f"<dt>{escape(each['name'])}</dt><dd>{escape(each.get('description', ''))}</dd>"
                    for each in parameters
                )
                parts.append(f"<dl>{''.join(items)}</dl>")
    return allowing(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>howl: the interface</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><h1>{escape(schema['info']['title'])}</h1><p>{escape(schema['info']['description'])} "
        f'For programs: <a href="openapi.json">openapi.json</a>.</p>{"".join(parts)}</html>'
    )
