"""The charts of classes: bars, the confusion matrix as a heat map, the pairs confused most.

They draw the tables of `finetune.reporting.by_class`, of the result whose title the parameter
`chosen` is; templates/results.js sets it.
"""

from typing import Any

import altair as alt


def charts(title: str) -> dict[str, dict[str, Any]]:
    """The charts by the ids of their elements.

    Args:
        title: of the result that they show first.
    """
    chosen = alt.param(name="chosen", value=title)
    mine = "datum.result == chosen"
    return {
        "class-bars": bar_chart().add_params(chosen).transform_filter(mine).to_dict(),
        "confusion": heat_map().add_params(chosen).transform_filter(mine).to_dict(),
        "confused-pairs": pair_chart().add_params(chosen).transform_filter(mine).to_dict(),
    }


def bar_chart() -> alt.LayerChart | alt.FacetChart:
    """A bar for each class, and a line over one standard deviation to both sides."""
    y = alt.Y("class:N", title=None, sort=alt.EncodingSortField("order", op="min"))
    tooltip = [
        alt.Tooltip("class:N"),
        alt.Tooltip("value:Q", format=".4f"),
        alt.Tooltip("std:Q", title="std over seeds", format=".4f"),
        alt.Tooltip("values:N", title="each seed"),
        alt.Tooltip("samples:Q", title="test samples", format=","),
    ]
    base = alt.Chart(alt.NamedData("classes")).encode(y=y, tooltip=tooltip)
    scale = alt.Scale(domain=[0, 1], clamp=True)
    x = alt.X("value:Q", title="value", scale=scale, axis=alt.Axis(tickCount=5))
    bars = base.mark_bar().encode(x=x)
    spread = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=alt.Scale(clamp=True)), x2="high:Q", color=alt.value("var(--ink)")
    )
    return alt.layer(bars, spread)


def heat_map() -> alt.LayerChart | alt.FacetChart:
    """The confusion matrix: rows are the truth, columns the answers, darker for a larger share.

    A cell's counts are those of its row's answers; names of answers are looked up by their place.
    """
    first = {"field": "place", "op": "min"}
    shades = alt.Scale(type="sqrt", domain=[0, 1], range=[0.12, 1])  # small shares are seen, too
    side = {"labelOverlap": True, "labelLimit": 120, "ticks": False, "domain": False}
    base = (
        alt.Chart(alt.NamedData("cells"))
        .transform_flatten(["answers", "counts"], as_=["at", "count"])
        .transform_calculate(
            answerKey="datum.number + ':' + datum.at",
            share="datum.samples ? datum.count / datum.samples : 0",
        )
        .transform_lookup(
            "answerKey",
            alt.LookupData(alt.NamedData("cells"), key="key", fields=["truth"]),
            as_=["answer"],
        )
        .encode(
            x=alt.X("answer:N", title="answer", sort={"field": "at", "op": "min"}, axis=side),
            y=alt.Y("truth:N", title="true class", sort=first, axis=side),
            tooltip=[
                alt.Tooltip("truth:N", title="true class"),
                alt.Tooltip("answer:N"),
                alt.Tooltip("count:Q", format=","),
                alt.Tooltip("share:Q", title="share of the true class", format=".1%"),
            ],
        )
    )
    cells = base.mark_rect().encode(opacity=alt.Opacity("share:Q", legend=None, scale=shades))
    shade = alt.when(alt.datum.share > 0.6).then(alt.value("var(--ground)"))
    told = base.mark_text().encode(
        text=alt.Text("count:Q", format=","), color=shade.otherwise(alt.value("var(--ink)"))
    )
    return alt.layer(cells, told, view=alt.ViewBackground(stroke="var(--line)"))


def pair_chart() -> alt.Chart:
    """A bar for each pair of a true class and a wrong answer."""
    return (
        alt.Chart(alt.NamedData("pairs"))
        .mark_bar()
        .encode(
            x=alt.X("count:Q", title="count", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y(
                "pair:N",
                title=None,
                sort=alt.EncodingSortField("order", op="min"),
                axis=alt.Axis(labelLimit=240),
            ),
            tooltip=[
                alt.Tooltip("truth:N", title="true class"),
                alt.Tooltip("answer:N"),
                alt.Tooltip("count:Q", format=","),
                alt.Tooltip("share:Q", title="share of the true class", format=".1%"),
            ],
        )
    )
