"""Writes the report: tables in reStructuredText, a chart in SVG, and all rounds as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from loads import Load
from measures import INSTRUCTIONS, Column, Measure
from peers import OURS, Entry
from targets import verdict

__all__ = ["Result", "as_json", "as_rst", "as_svg", "as_targets", "lay_out"]

#: The row that ratios are relative to: the kind of view that the manual introduces first.
BASE = "wsmux/function"


#: The loads of the summary, and the headings of their columns.
SUMMARIZED = {
    ("echo", "64 B text"): "64 B",
    ("echo", "16 KiB text"): "16 KiB",
    ("echo", "1 MiB text"): "1 MiB",
    ("idle", "10,000 sockets"): "memory",
    ("handshakes", "20 at a time"): "handshakes",
    ("fanout", "500 members"): "group of 500",
    ("redis", "500 members"): "the same, Redis",
    ("pages", "with user"): "pages",
    ("blocking", "200 sockets at once"): "slow queries",
}

#: Measures in which servers without sessions and users do less.
LESS = ("handshakes", "idle")


@dataclass
class Result:
    """All rounds of one server in one case.

    Attributes:
        measure: what was measured.
        case: title of the load.
        entry: the server and the path.
        load: what to count the instructions of.
        rounds: the figures of each round.
        error: why there are no figures, if the server failed.
        instructions: for one message, delivery, handshake or page, if they were counted.
    """

    measure: Measure
    case: str
    entry: Entry
    load: Load | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None
    instructions: int | None = None

    def median(self, figure: str) -> float:
        """Return the median of one figure."""
        return statistics.median(self.values(figure))

    def values(self, figure: str) -> list[float]:
        """Return one figure of every round."""
        return [figures[figure] for figures in self.rounds]

    @property
    def key(self) -> str:
        """Key of the server and its path."""
        return self.entry.key

    @property
    def value(self) -> float:
        """The figure to compare."""
        return self.median(self.measure.columns[0].figure)


def ratio(base: Result | None, other: Result, figure: str, more_is_better: bool) -> float | None:
    """Return how many times better our result is."""
    if base is None or base.error or other.error or figure not in other.rounds[0]:
        return None
    ours, theirs = base.median(figure), other.median(figure)
    best, worst = (ours, theirs) if more_is_better else (theirs, ours)
    return best / worst if worst > 0 else None


def base_of(results: Sequence[Result]) -> Result | None:
    """Return our own result of one case."""
    ours = [result for result in results if result.entry.peer is OURS]
    return next((result for result in ours if result.key == BASE), ours[0] if ours else None)


def by_case(results: Sequence[Result]) -> Iterator[tuple[Measure, str, list[Result]]]:
    """Group the results by case."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.measure.name, result.case), []).append(result)
    for (_, case), group in groups.items():
        yield group[0].measure, case, group


# JSON


def as_json(description: dict[str, str], results: Sequence[Result]) -> str:
    """Return all measurements, round by round."""
    rows = [
        {
            "measure": result.measure.name,
            "case": result.case,
            "server": result.key,
            "title": result.entry.title,
            "rounds": result.rounds,
            "error": result.error,
            "instructions": result.instructions,
        }
        for result in results
    ]
    return json.dumps({**description, "results": rows}, indent=1) + "\n"


# reStructuredText


def as_rst(description: dict[str, str], results: Sequence[Result]) -> str:
    """Return a page with a summary, and a table for each measure."""
    lines = [
        ".. Written by bench/compare.py.",
        "",
        *(f":{name}: {value}" for name, value in description.items()),
        "",
        *summary(results),
        "",
        "Below are the figures: the median (lowest-highest). The ratio compares django_wsmux's "
        "function view with the server: above 1, django_wsmux is better.",
    ]
    seen: list[str] = []
    for result in results:
        if result.measure.name not in seen:
            seen.append(result.measure.name)
            title = result.measure.title
            chosen = [other for other in results if other.measure is result.measure]
            lines += ["", title, "~" * len(title), "", *table(result.measure, chosen)]
            lines += [text for remark in remarks(chosen) for text in ("", f"* {remark}")]
    return "\n".join(lines) + "\n"


def summary(results: Sequence[Result]) -> list[str]:
    """Return how many times better ours is than each other server, in the most common loads."""
    chosen = [
        (measure, case, group)
        for measure, case, group in by_case(results)
        for title in (SUMMARIZED.get((measure.name, case)),)
        if title is not None
    ]
    rows = [["server", *(SUMMARIZED[measure.name, case] for measure, case, _ in chosen)]]
    others = [result.entry for result in results if not is_ours(result)]
    # A server has several kinds of views, but each page only once.
    entries = [entry for entry in others if "echo" in entry.peer.offers] or others
    for title, peer in {entry.title: entry.peer for entry in entries}.items():
        cells = []
        for measure, _, group in chosen:
            main = measure.columns[0].figure
            ratios = [
                ratio(base_of(group), result, main, measure.more_is_better)
                for result in group
                if result.entry.peer is peer and result.entry.title in (title, peer.title)
            ]
            # Servers without sessions and users do less.
            is_alike = measure.name not in LESS or "blocking" in peer.offers
            cells.append(number(ratios[0] if ratios and is_alike else None))
        rows.append([title, *cells])
    if len(rows) == 1 or not chosen:
        return []
    return [
        "How many times better django_wsmux is, with a function view: 2 means twice as many in a "
        "second, or half of the memory; below 1, the other server is better:",
        "",
        *lay_out(rows),
    ]


def table(measure: Measure, results: Sequence[Result]) -> list[str]:
    """Return a table with the figures of one measure."""
    columns = [
        column
        for column in measure.columns
        if column is not INSTRUCTIONS or any(result.instructions for result in results)
    ]
    rows = [["load", "server", *(column.title for column in columns), "ratio"]]
    for _, case, group in by_case(results):
        base = base_of(group)
        for result in group:
            cells = [cell(result, column) for column in columns]
            if result.error:
                cells[0] = "failed"
            main = columns[0].figure
            by_main = ratio(base, result, main, measure.more_is_better)
            rows.append([case, result.entry.title, *cells, number(by_main)])
    return lay_out(rows)


def as_targets(results: Sequence[Result]) -> str:
    """Return a table of our own targets, and whether they are reached."""
    rows = [["measure", "load", "server", "ratio", "target"]]
    for measure, case, group in by_case(results):
        base = base_of(group)
        for result in group:
            main = measure.columns[0].figure
            by_main = ratio(base, result, main, measure.more_is_better)
            by_cpu = ratio(base, result, "cpu_us", False)
            target = verdict(measure.name, case, result, by_main, by_cpu)
            if target != "-":
                rows.append([measure.name, case, result.entry.title, number(by_main), target])
    return "\n".join(lay_out(rows)) + "\n"


def lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a simple table whose first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]
    return [rule, lines[0], rule, *lines[1:], rule]


def cell(result: Result, column: Column) -> str:
    """Format a median, with its extremes if there are several rounds."""
    if column is INSTRUCTIONS:
        return "-" if result.instructions is None else f"{result.instructions:,}"
    if result.error or column.figure not in result.rounds[0]:
        return "-"
    values = result.values(column.figure)
    low, middle, high = (
        f"{value:,.{column.digits}f}"
        for value in (min(values), result.median(column.figure), max(values))
    )
    return f"{middle} ({low}-{high})" if len(values) > 1 else middle


def number(value: float | None) -> str:
    """Format a ratio with the digits that matter."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def remarks(results: Sequence[Result]) -> Iterator[str]:
    """Yield remarks: what failed, and where the server was not the limit."""
    driven, held_up = [], []
    for result in results:
        what = f"{result.entry.title} ({result.case}"
        if result.error:
            yield f"{what}): {result.error.splitlines()[0].rstrip('.:')}."
        elif "generator_busy" in result.rounds[0]:
            generator, server = result.median("generator_busy"), result.median("server_busy")
            if generator > 0.9:
                driven.append(f"{what})")
            elif server < 0.8 and result.measure.more_is_better:
                held_up.append(f"{what}: {server:.0%})")
    if driven:
        yield f"The generator was the limit, not the server: {', '.join(driven)}."
    if held_up:
        yield (
            f"The server was not the limit, so trust its CPU time; it used less than 80 % of its "
            f"core: {', '.join(held_up)}."
        )


# SVG

#: The cases to draw, by measure.
HEADLINES = {
    "echo": (0, 2),
    "idle": (-1,),
    "handshakes": (0,),
    "fanout": (0,),
    "redis": (0,),
    "pages": (0,),
    "latency": (0,),
    "blocking": (0,),
}

STYLE = """\
text { font: 11px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 13px }
.note { fill: #57606a }
.bar { fill: #8c959f }
.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.note { fill: #9198a1 }
.bar { fill: #656c76 }
.ours { fill: #4493f8 }
}"""

WIDTH, LABEL, BAR, LINE, GAP = 490, 225, 190, 17, 34


def as_svg(description: dict[str, str], results: Sequence[Result]) -> str:
    """Return the chart: a panel for each headline, in two columns, for light and dark modes."""
    panels = list(headlines(results))
    heights = [0, 0]
    parts: list[str] = []
    for measure, case, group in panels:
        side = heights.index(min(heights))
        x, y = 10 + side * (WIDTH + 20), heights[side] + 10
        parts += panel(measure, case, group, x, y)
        heights[side] += LINE * len(group) + GAP + 14
    height = max(heights) + 36
    note = f"{description['date']}, {description['system']}. {description['command']}"
    width = 2 * WIDTH + 40
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            "<title>Benchmarks of django_wsmux and other servers</title>",
            f"<style>{STYLE}</style>",
            *parts,
            f'<text class="note" x="10" y="{height - 12}">{escape(note)}</text>',
            "</svg>\n",
        ]
    )


def headlines(results: Sequence[Result]) -> Iterator[tuple[Measure, str, list[Result]]]:
    """Yield the panels, best result first, without failures and servers that do less.

    A panel without ours would compare nothing.
    """
    groups = list(by_case(results))
    for name, places in HEADLINES.items():
        of_it = [group for group in groups if group[0].name == name]
        for place in places:
            if -len(of_it) <= place < len(of_it):
                measure, case, group = of_it[place]
                fine = [result for result in group if not result.error]
                if name == "handshakes":
                    fine = [result for result in fine if "blocking" in result.entry.peer.offers]
                fine.sort(key=lambda result: result.value, reverse=measure.more_is_better)
                if any(map(is_ours, fine)):
                    yield measure, case, fine


def panel(measure: Measure, case: str, results: Sequence[Result], x: int, y: int) -> Iterator[str]:
    """Draw the bars of one case."""
    column = measure.columns[0]
    better = "more" if measure.more_is_better else "less"
    head = f"{measure.title}: {case}"
    yield f'<text class="title" x="{x}" y="{y + 12}">{escape(head)}</text>'
    note = f"{column.title}; {better} is better"
    yield f'<text class="note" x="{x}" y="{y + 26}">{escape(note)}</text>'
    most = max(result.value for result in results) or 1.0
    for place, result in enumerate(results):
        top = y + GAP + place * LINE
        width = max(1.0, BAR * result.value / most)
        mark = "bar ours" if is_ours(result) else "bar"
        value = f"{result.value:,.{column.digits}f}"
        yield (
            f'<text x="{x + LABEL - 6}" y="{top + 11}" text-anchor="end">'
            f"{escape(result.entry.title)}</text>"
        )
        yield (
            f'<rect class="{mark}" x="{x + LABEL}" y="{top + 2}" width="{width:.1f}" '
            f'height="{LINE - 5}" rx="2"/>'
        )
        yield f'<text x="{x + LABEL + width + 5:.1f}" y="{top + 11}">{value}</text>'


def is_ours(result: Result) -> bool:
    """Return whether a bar is drawn in colour."""
    return result.entry.peer is OURS
