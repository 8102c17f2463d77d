"""An evaluation as one HTML file: nothing is loaded from elsewhere, no script, plots as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from moderate.analysis.evaluation import Evaluation, OfCategory
from moderate.analysis.metrics import Confusion
from moderate.report.evaluation import closing, gates, headline, tables, worst
from moderate.report.svg import Bar, Mark, Plot, svg
from moderate.report.tables import Table
from moderate.text import printable

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --quiet: #69737d; --rule: #d9dee3;
  --one: #2463b4; --pale: #2463b455; --two: #b43a24; --good: #227a3c; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --quiet: #98a2ac; --rule: #3a434c;
  --one: #77aef2; --pale: #77aef255; --two: #f08d77; --good: #74c98c; --page: #15191d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--quiet); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .held { color: var(--good); } .missed { color: var(--two); }
figure { display: inline-block; margin: 0 1rem 1rem 0; }
ul { padding-left: 1.2rem; color: var(--quiet); font-size: .9rem; }
svg text { font: 11px system-ui, sans-serif; fill: var(--quiet); text-anchor: middle; }
svg .title { font-weight: 600; font-size: 12px; fill: var(--ink); text-anchor: start; }
svg .side, svg text.end { text-anchor: end; } svg text.mark { fill: var(--two); }
svg text.mark:not(.end) { text-anchor: start; }
svg .grid { stroke: var(--rule); stroke-width: 1; fill: none; }
svg .diagonal { stroke: var(--quiet); stroke-dasharray: 4 4; fill: none; }
svg .line { stroke: var(--one); stroke-width: 2; fill: none; stroke-linejoin: round; }
svg .bar { fill: var(--pale); } svg .point { fill: var(--one); }
svg circle.mark { fill: var(--two); }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def to_html(evaluation: Evaluation) -> str:
    """The evaluation as a page."""
    title = "moderate: evaluation"
    body = [
        f"<h1>{title}</h1>",
        f"<p><strong>{_text(headline(evaluation))}</strong></p>",
    ]
    for table in (*gates(evaluation), *tables(evaluation)):
        body += [f"<h2>{_text(table.title)}</h2>", _table(table)]
    for each in evaluation.categories:
        if each.n:
            body.append(f"<h2>{_text(each.category)}: {each.n:,} images</h2>")
            body += [f"<figure>{svg(plot)}</figure>" for plot in plots(each)]
    for table in worst(evaluation):
        body += [f"<h2>{_text(table.title)}</h2>", _table(table)]
    body += ["<h2>Notes and definitions</h2>", _list(closing(evaluation))]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )


def plots(of: OfCategory) -> Iterator[Plot]:
    """What is drawn of a category that has images; what needs positives only with positives."""
    thresholds = [("review", of.measured.at_review), ("block", of.measured.at_block)]
    found = [(point, point.recall) for point in of.points if point.recall is not None]
    if found:
        yield Plot(
            "Precision and recall",
            "recall",
            "precision",
            line=[(recall, point.precision) for point, recall in found],
            marks=[
                Mark((counts.tp / of.positives, counts.tp / _flagged(counts)), name)
                for name, counts in thresholds
                if _flagged(counts)
            ],
        )
    yield Plot(
        "Reliability (ECE)",
        "score",
        "share of positives",
        bars=[
            Bar(
                each.low,
                each.high,
                each.positives,
                f"{each.low:.2f} to {each.high:.2f}: {each.images:,} images, mean score "
                f"{each.mean_score:.3f}, {100 * each.positives:.1f} % positive",
            )
            for each in of.bins
        ],
        points=[(each.mean_score, each.positives) for each in of.bins],
        diagonal=True,
    )
    if found:
        yield Plot(
            "Review volume and misses",
            "share of labelled images flagged",
            "share of positives missed",
            line=[(0.0, 1.0), *((point.flagged, 1 - recall) for point, recall in found)],
            marks=[
                Mark((_flagged(counts) / of.n, counts.fn / of.positives), name)
                for name, counts in thresholds
            ],
        )


def _flagged(counts: Confusion) -> int:
    return counts.tp + counts.fp


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    under = _list(list(table.under)) if table.under else ""
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>{under}"
    )


def _cell(text: str) -> str:
    kind = f' class="{text}"' if text in {"held", "missed"} else ""
    return f"<td{kind}>{_text(text)}</td>"


def _list(items: list[str]) -> str:
    made = "\n".join(f"<li>{_text(item)}</li>" for item in items)
    return f"<ul>\n{made}\n</ul>"


def _text(text: str) -> str:
    return escape(printable(text))
