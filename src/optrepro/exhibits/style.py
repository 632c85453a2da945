"""The style of all exhibits: page size, fonts, colour and marker of every optimizer, number formats, files.

Colours are colour-blind safe (after Okabe and Ito, and Paul Tol). Each group of a comparison has one family of hues;
optimizers in it differ by lightness, marker and dashes, so that hue alone never carries information.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from optrepro.exhibits.material import Material

PAGE_WIDTH = 180.0  # mm
MARGIN = 0.009  # margin on every side, as a share of the page
SEQUENTIAL = "cividis"  # colour map of magnitudes, colour-blind safe
INK, MUTED, FAINT = "#222222", "#666666", "#D9D9D9"
WARNING = "#B2182B"
READABLE = 4.5  # least contrast of small text, by the WCAG
GROUP_TITLES = {
    "fixed": "fixed candidates",
    "dynamic": "dynamic rules",
    "control": "controls",
    "peer": "peers",
    "policy": "learned policies",
    "first-order": "first-order baselines",
    "quasi-newton": "quasi-Newton",
    "derivative-free": "derivative-free references",
}

# Set at import, because matplotlib reads some of these when an artist is created and others when it is drawn.
matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",  # part of matplotlib, so the font is the same on every machine
        "font.size": 8,
        "axes.labelsize": 8,
        "axes.titlesize": 8.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.5,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.3,
        "lines.markersize": 4.5,
        "text.color": INK,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "savefig.dpi": 220,
        "svg.fonttype": "none",  # text stays text, for searching and for screen readers
        "svg.hashsalt": "optrepro",
    }
)


@dataclass(frozen=True)
class Look:
    """The colour, marker and dashes of an optimizer in all figures."""

    color: str
    marker: str = "o"
    dashes: str | tuple[int, tuple[float, ...]] = "-"
    filled: bool = True

    @property
    def ink(self) -> str:
        """The colour of its name in a text, dark enough to be read."""
        return legible(self.color)

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of a curve."""
        return {"color": self.color, "linestyle": self.dashes}

    @property
    def point(self) -> dict[str, Any]:
        """Keyword arguments of a marker without a line."""
        face = self.color if self.filled else "white"
        return {"color": self.color, "marker": self.marker, "markerfacecolor": face, "linestyle": "none"}


_DASH, _DOT, _DASHDOT = (0, (4.0, 1.5)), (0, (1.0, 1.2)), (0, (4.0, 1.3, 1.0, 1.3))

_LOOKS = {
    # fixed candidates: blue, darker with more memory
    "momentum-50": Look("#74B3DC", "o"),
    "momentum-90": Look("#2678B8", "o"),
    "momentum-99": Look("#0B3C78", "o"),
    "beta-50": Look("#74B3DC", "o"),
    "beta-90": Look("#2678B8", "o"),
    "beta-99": Look("#0B3C78", "o"),
    # dynamic rules: orange to red; dashed and open if each tensor has its own choice
    "paper": Look("#D55E00", "D"),
    "paper-each": Look("#D55E00", "D", _DASH, filled=False),
    "paper-literal": Look("#D55E00", "d", _DOT),
    "debiased": Look("#E69F00", "D"),
    "debiased-each": Look("#E69F00", "D", _DASH, filled=False),
    "debiased-previous": Look("#E69F00", "d", _DOT),
    "raw": Look("#9E1B32", "D"),
    "raw-each": Look("#9E1B32", "D", _DASH, filled=False),
    "validation": Look("#C85A9E", "D"),
    "continuous": Look("#6A3D9A", "D"),
    "aligned": Look("#7A5200", "D", _DASHDOT),
    "aligned-each": Look("#7A5200", "D", _DASH, filled=False),
    "regret": Look("#0F7B6C", "^"),
    "noise-window": Look("#E0719C", "v"),
    "own-memory": Look("#6A3D9A", "s"),
    # controls: grey to black
    "random": Look("#8C8C8C", "s", _DOT),
    "random-raw": Look("#8C8C8C", "s", _DASHDOT, filled=False),
    "random-debiased": Look("#5A5A5A", "s", _DASHDOT, filled=False),
    "random-aligned": Look("#AFA59B", "s", _DASHDOT, filled=False),
    "mean": Look("#222222", "s", _DASH),
    "paper-joined": Look("#8C8C8C", "s", _DASH),
    "paper-doubled": Look("#5A5A5A", "P", _DOT),
    "fixed-joined": Look("#8C8C8C", "s", _DASHDOT, filled=False),
    "fixed-doubled": Look("#5A5A5A", "P", _DASHDOT, filled=False),
    # peers: green
    "schedule-free": Look("#009E73", "^"),
    "cautious": Look("#00694C", "v", _DASH),
    "prodigy": Look("#5AB48E", "<", _DOT),
    # classic optimizers
    "gradient-descent": Look("#222222", "o"),
    "momentum": Look("#0072B2", "s"),
    "nesterov": Look("#56B4E9", "D", _DASH),
    "rmsprop": Look("#009E73", "^"),
    "adam": Look("#D55E00", "v"),
    "adamw": Look("#E69F00", "<", _DASH),
    "adagrad": Look("#CC79A7", ">"),
    "rprop": Look("#882255", "P", _DASH),
    "lbfgs": Look("#332288", "X", _DOT),
    "polyak": Look("#8F8A2B", "*", _DASHDOT),
    "sgd": Look("#222222", "o"),
    "conjugate-gradient": Look("#A67C00", "D", _DASHDOT),
    # PyTorch's versions, in measurements of time
    "foreach": Look("#44AA99", "h"),
    "fused": Look("#44AA99", "p"),
    # learned policies: hues that no other group has
    "pop": Look("#E6007E", "*"),
    "pop-trained": Look("#F58AC2", "p", _DASH),
    "psd": Look("#E6007E", "*"),
    "psd-trained": Look("#F58AC2", "p", _DASH),
    "psd-bregman": Look("#8C1F9E", "h", _DASHDOT),
    "psd-paper": Look("#5B1FA8", "X", _DASH),
    "imitation": Look("#7A5C61", "P", _DOT),
    "l2l": Look("#00A0D2", "X", _DASH),
    "l2l-trained": Look("#7CCBE8", "x", _DOT),
    # derivative-free references: light grey
    "random-search": Look("#B5B5B5", "o", _DOT),
    "differential-evolution": Look("#9A9A9A", "s", _DASH),
    "cma-es": Look("#858585", "^", _DASHDOT),
    "tpe": Look("#A89F91", "D", _DOT),
    # static families
    "frobenius": Look("#D55E00", "D"),
    "spectral": Look("#0072B2", "s"),
    "lyapunov": Look("#009E73", "^", _DASH),
    "diagonal": Look("#CC79A7", "v"),
    "identity": Look("#222222", "o", _DASHDOT),
}
_MINUS = re.compile(r"(?<![\w.)\]{–-])-(?=\.?\d)|(?<=\de)-(?=\d)")  # a hyphen that is the sign of a number or exponent
_SPARE_COLORS = ("#117733", "#AA4499", "#6699CC", "#997700", "#994455", "#44AA99", "#885500", "#004488")
_SPARE_MARKERS = ("p", "h", "P", "X", "8", "*")
_SPARE_DASHES = ("-", _DASH, _DASHDOT)


def look(optimizer: str) -> Look:
    """The look of an optimizer, by key. A key that is not listed has a look that is derived from its hash."""
    if optimizer in _LOOKS:
        return _LOOKS[optimizer]
    digest = hashlib.sha256(optimizer.encode()).digest()
    return Look(
        _SPARE_COLORS[digest[0] % len(_SPARE_COLORS)],
        _SPARE_MARKERS[digest[1] % len(_SPARE_MARKERS)],
        _SPARE_DASHES[digest[2] % len(_SPARE_DASHES)],
    )


def contrast(color: Any, background: Any = "white") -> float:
    """The ratio of the luminances of two colours, from 1 to 21, as the WCAG defines it."""
    low, high = sorted(_luminance(each) for each in (color, background))
    return (high + 0.05) / (low + 0.05)


def legible(color: str) -> str:
    """A colour for text on white: as it is, or darkened until its contrast is `READABLE`."""
    red, green, blue = to_rgb(color)
    shades = (to_hex((red * light, green * light, blue * light)) for light in np.linspace(1, 0, 51))
    return next(shade for shade in shades if contrast(shade) >= READABLE)


def ink_on(background: Any) -> str:
    """Black or white, whichever is easier to read on a colour."""
    return max("black", "white", key=lambda ink: contrast(ink, background))


def _luminance(color: Any) -> float:
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def candidate_color(memory: float) -> str:
    """The colour of a candidate in panels of choices: that of the fixed optimizer with this momentum or beta1."""
    return look(f"momentum-{round(100 * memory)}").color


def page(material: Material, height: float, width: float = PAGE_WIDTH) -> Figure:
    """An empty figure of `width` x `height` mm with constrained layout, with a warning if runs are missing."""
    figure = Figure(figsize=(width / 25.4, height / 25.4))
    # The layout engine ignores the headings of rows, which extend slightly beyond the names of rows.
    figure.set_layout_engine("constrained", rect=(MARGIN, MARGIN, 1 - 2 * MARGIN, 1 - 2 * MARGIN))
    missing, expected = material.missing_runs()
    if missing:
        figure.suptitle(f"PARTIAL: {missing} of {expected} runs are missing", color=WARNING, fontsize=8)
    return figure


def grid(axes: Axes, axis: str = "y") -> None:
    """Faint grid lines behind the data; `axis` is "x", "y" or "both"."""
    axes.grid(True, axis=axis)  # type: ignore[arg-type]
    axes.tick_params(length=2.5, width=0.6)


def save(figure: Figure, path: Path) -> None:
    """Write ``path.svg`` and ``path.png`` without date and version, so that equal figures give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".svg").write_text(svg(figure, path.name))
    figure.savefig(path.with_suffix(".png"), metadata={"Software": None})


def svg(figure: Figure, name: str) -> str:
    """A figure as SVG without date and version; `name` begins the names of its clip paths."""
    _set_minus_signs(figure)
    _lay_out(figure)
    drawing = StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    return _with_stable_names(drawing.getvalue(), name)


def typeset(text: str) -> str:
    """A text with minus signs in its numbers, for readers: "lag-1 is -0.5 [-1, 2e-5]" -> "lag-1 is −0.5 [−1, 2e−5]".

    Figures that are saved, captions and pages have it by themselves. Files for programs keep the hyphens.
    """
    return _MINUS.sub("\N{MINUS SIGN}", text)


def _set_minus_signs(figure: Figure) -> None:
    for text in figure.findobj(Text):
        text.set_text(typeset(text.get_text()))
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            # Ticks take their texts anew from the formatter, which for given texts is a function.
            if isinstance(formatter := axis.get_major_formatter(), FuncFormatter):
                axis.set_major_formatter(FuncFormatter(partial(_typeset_tick, formatter)))


def _typeset_tick(formatter: FuncFormatter, value: float, position: int | None) -> str:
    return typeset(formatter(value, position))


def _lay_out(figure: Figure) -> None:
    """Let the layout engine place the axes, once for both files, and round the places, whose last digits are chance."""
    if (engine := figure.get_layout_engine()) is None:
        return
    engine.execute(figure)
    figure.set_layout_engine(None)  # with any engine, even one that places nothing, each file would be drawn twice
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position(original=True).bounds
        axes.set_position((round(left, 5), round(bottom, 5), round(width, 5), round(height, 5)))


def _with_stable_names(svg: str, prefix: str) -> str:
    """An SVG whose clip paths are numbered; their names are hashes of places, of which the last digits are chance."""
    numbers: dict[str, str] = {}
    return re.sub(r"\bp[0-9a-f]{10}\b", lambda name: numbers.setdefault(name[0], f"{prefix}-clip-{len(numbers)}"), svg)


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, without the percent sign: 0.8512 -> "85.1"; a missing value is a dash."""
    return "–" if share != share else f"{100 * share:.{digits}f}"


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits: 0.00123456 -> "0.00123", 1234567 -> "1.23e+06"; a missing value is a dash."""
    return "–" if value != value else f"{value:.{digits}g}"


def interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    """A mean with its interval, `digits` after the point: "0.851 [0.849, 0.853]"; a missing mean is a dash."""
    if mean != mean:
        return "–"
    mean, low, high = (round(x, digits) + 0.0 for x in (mean, low, high))  # + 0.0 turns -0.0 into 0.0
    ends = f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low and high == high else ""
    return f"{mean:.{digits}f}{ends}"


def p_value(p: float) -> str:
    """A p-value as text: 0.0123 -> "0.012", 0.0001 -> "< 0.001"; a missing value is a dash."""
    if p != p:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
