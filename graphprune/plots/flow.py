"""Credit flow: the modules of a model with the stream between them, and the neighbours of one unit."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from graphprune.plots.style import INK, SYMBOLS, colour, kind_name, styled

Edge = tuple[str, str]
Flow = tuple[str, float]  # a unit, and the credit that flows between it and another
SELECTS = {"attn": "head", "mlp": "neuron"}  # the units that a module is made of
WIDEST = 14.0
AMOUNTS = 6  # line widths


def strongest_edges(flows: Mapping[Edge, float], share: float) -> dict[Edge, float]:
    """The strongest edges that together hold a share of all that flows; at least one."""
    ordered = sorted(flows.items(), key=lambda each: (-each[1], each[0]))
    wanted, held, kept = share * sum(flows.values()), 0.0, dict[Edge, float]()
    for edge, flow in ordered:
        if kept and held >= wanted * (1 - 1e-9):
            break
        kept[edge] = flow
        held += flow
    return kept


def credit_map(
    flows: Mapping[Edge, float],
    *,
    share: float = 1.0,
    selected: str = "",
    origin: str = "",
    title: str = "Where the output's credit comes from",
) -> go.Figure:
    """The modules of a decoder from left to right: attention above the residual stream, the MLP below it.

    Lines are as wide as the credit they carry. The stream is drawn as a path whatever the share.

    Args:
        flows: by edge between `attn.L`, `mlp.L` and `resid.K`, as `CreditFlow.between_modules` gives them.
        share: of all the credit; the weakest edges beyond it are left out.
        selected: a group or a unit whose module is framed.
        origin: what the figure is about, for its subtitle.
        title: of the figure.

    Raises:
        ValueError: nothing flows.
    """
    if not flows:
        raise ValueError("no credit flows in this graph")
    kept = strongest_edges(flows, share)
    names = dict.fromkeys(name for edge in flows for name in edge)
    places = {name: _place(name) for name in names}
    top = max(flows.values())
    figure = go.Figure()
    for step in range(AMOUNTS):
        low, high = top * step / AMOUNTS, top * (step + 1) / AMOUNTS
        here = [edge for edge, flow in kept.items() if low < flow <= high]
        for kind in ("resid", "head", "neuron"):
            _add_lines(figure, [edge for edge in here if _kind(edge) == kind], places, (step + 1) / AMOUNTS, kind)
    stream = sorted((name for name in names if name.startswith("resid.")), key=lambda name: places[name])
    figure.add_trace(
        go.Scatter(
            x=[places[name][0] for name in stream], y=[places[name][1] for name in stream], mode="lines",
            line={"color": colour("resid"), "width": 3}, hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip
    _add_middles(figure, kept, places)
    chosen = _module_of(selected)
    for kind in ("resid", "attn", "mlp"):
        _add_modules(figure, [name for name in names if name.startswith(kind)], places, flows, chosen, kind)
    held = sum(kept.values()) / sum(flows.values())
    said = f"{len(kept):,} of {len(flows):,} edges between modules, {held:.0%} of what flows; wider: more credit"
    figure = styled(
        figure, title, "; ".join(word for word in (origin, said) if word), height=420, showlegend=True,
        hovermode="closest", legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(title_text="from the input to the output", showgrid=False, zeroline=False, showticklabels=False)
    return figure.update_yaxes(visible=False, range=[-1.6, 1.6])


def neighbourhood(
    unit: str,
    sources: Sequence[Flow],
    targets: Sequence[Flow],
    *,
    origin: str = "",
    title: str | None = None,
) -> go.Figure:
    """A unit between what gives it most of its credit's way on and what it takes it from.

    Args:
        unit: what it is called.
        sources: the strongest units that it takes from, strongest first.
        targets: those that it gives to.
        origin: what the figure is about, for its subtitle.
        title: of the figure.

    Raises:
        ValueError: it has no neighbours.
    """
    if not sources and not targets:
        raise ValueError(f"no credit flows through {unit}")
    figure = go.Figure()
    top = max(flow for _, flow in [*sources, *targets])
    for x, column in ((0.0, sources), (2.0, targets)):
        for i, (name, flow) in enumerate(column):
            figure.add_trace(
                go.Scatter(
                    x=[x, 1.0], y=[_height(i, len(column)), 0.5], mode="lines", hoverinfo="skip", showlegend=False,
                    line={"width": 1 + (WIDEST - 1) * flow / top, "color": colour(name.split(".")[0])}, opacity=0.55,
                )
            )  # fmt: skip
    for x, column, position in ((0.0, sources, "middle left"), (2.0, targets, "middle right")):
        figure.add_trace(
            go.Scatter(
                x=[x] * len(column), y=[_height(i, len(column)) for i in range(len(column))], mode="markers+text",
                text=[f" {name} " for name, _ in column], textposition=position,
                customdata=[[name] for name, _ in column],
                hovertext=[f"<b>{name}</b><br>{flow:.3g} of the output's credit" for name, flow in column],
                hoverinfo="text", showlegend=False, name="takes from" if x == 0 else "gives to",
                marker={
                    "size": 13, "color": [colour(name.split(".")[0]) for name, _ in column],
                    "line": {"width": 1, "color": INK},
                    "symbol": [SYMBOLS.get(name.split(".")[0], "circle") for name, _ in column],
                },
            )
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[1.0], y=[0.5], mode="markers+text", text=[f"<b>{unit}</b>"], textposition="top center",
            customdata=[[unit]], hoverinfo="skip", showlegend=False,
            marker={"size": 24, "color": colour(unit.split(".", maxsplit=1)[0]), "line": {"width": 3, "color": INK}},
        )
    )  # fmt: skip
    said = f"the {len(sources)} strongest it takes from, the {len(targets)} it gives to; wider: more credit"
    rows = max(len(sources), len(targets), 4)
    figure = styled(
        figure, title or f"What {unit} takes from and gives to", "; ".join(word for word in (origin, said) if word),
        height=max(320, 140 + 26 * rows), hovermode="closest",
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[-0.7, 2.7])
    return figure.update_yaxes(visible=False, range=[-0.05, 1.08])


def _height(i: int, n: int) -> float:
    return 1 - (i + 0.5) / n


def _place(name: str) -> tuple[float, float]:
    kind, layer = name.split(".")[:2]
    if kind == "resid":
        return float(layer), 0.0
    return (2 * int(layer) + 0.5, 1.0) if kind == "attn" else (2 * int(layer) + 1.5, -1.0)


def _kind(edge: Edge) -> str:
    """Whose edge it is: the attention's, the MLP's, or the stream's own."""
    kinds = {name.split(".")[0] for name in edge}
    return "head" if "attn" in kinds else "resid" if kinds == {"resid"} else "neuron"


def _module_of(selected: str) -> str:
    kind, _, rest = selected.partition(".")
    modules = {unit: module for module, unit in SELECTS.items()} | {"kv_head": "attn"}
    return f"{modules.get(kind, kind)}.{rest.split('.')[0]}"


def _add_lines(
    figure: go.Figure, edges: Sequence[Edge], places: Mapping[str, tuple[float, float]], amount: float, kind: str
) -> None:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for src, dst in edges:
        xs += [places[src][0], places[dst][0], None]
        ys += [places[src][1], places[dst][1], None]
    if edges:
        figure.add_trace(
            go.Scatter(
                x=xs, y=ys, mode="lines", hoverinfo="skip", showlegend=False, opacity=0.6,
                line={"width": WIDEST * amount, "color": colour(kind)},
            )
        )  # fmt: skip


def _add_middles(figure: go.Figure, kept: Mapping[Edge, float], places: Mapping[str, tuple[float, float]]) -> None:
    """Points in the middle of edges, for the pointer."""
    figure.add_trace(
        go.Scatter(
            x=[(places[src][0] + places[dst][0]) / 2 for src, dst in kept],
            y=[(places[src][1] + places[dst][1]) / 2 for src, dst in kept], mode="markers", showlegend=False,
            marker={"size": 10, "opacity": 0}, hoverinfo="text",
            hovertext=[f"{src} → {dst}<br>{flow:.3g} of the output's credit" for (src, dst), flow in kept.items()],
        )
    )  # fmt: skip


def _add_modules(
    figure: go.Figure, names: Sequence[str], places: Mapping[str, tuple[float, float]], flows: Mapping[Edge, float],
    chosen: str, kind: str,
) -> None:  # fmt: skip
    if not names:
        return
    out = {name: sum(flow for (src, _), flow in flows.items() if src == name) for name in names}
    selects = [name.replace(kind, SELECTS.get(kind, kind), 1) for name in names]
    figure.add_trace(
        go.Scatter(
            x=[places[name][0] for name in names], y=[places[name][1] for name in names], mode="markers",
            name=kind_name(kind), customdata=[[name] for name in selects], hoverinfo="text",
            hovertext=[f"<b>{name}</b><br>{out[name]:.3g} of the output's credit" for name in names],
            marker={
                "size": 8 if kind == "resid" else 15, "color": colour(kind),
                "symbol": SYMBOLS.get(SELECTS.get(kind, kind), "circle"),
                "line": {"color": INK, "width": [4 if name == chosen else 1 for name in names]},
            },
        )
    )  # fmt: skip


def strongest_units(inside: Sequence[Flow], *, selected: str = "", title: str = "The strongest units") -> go.Figure:
    """A bar for each of some units, as long as its credit.

    Raises:
        ValueError: there are none.
    """
    if not inside:
        raise ValueError("no unit of it holds any credit")
    names, values = [name for name, _ in inside], [flow for _, flow in inside]
    bars = go.Bar(
        x=values, y=names, orientation="h", customdata=[[name] for name in names],
        hovertemplate="<b>%{y}</b><br>%{x:.3g} of the output's credit<extra></extra>",
        marker={
            "color": colour(names[0].split(".")[0]),
            "line": {"color": INK, "width": [3 if name == selected else 0 for name in names]},
        },
    )  # fmt: skip
    figure = styled(
        go.Figure(bars), title, f"the {len(names)} units that hold most credit", height=max(320, 140 + 26 * len(names))
    )
    figure.update_xaxes(title_text="share of the output's credit", exponentformat="power")
    return figure.update_yaxes(autorange="reversed")
