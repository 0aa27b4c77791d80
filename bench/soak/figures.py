"""Slopes with standard errors, the CSV file and the plot of the soak test."""

import csv
from dataclasses import astuple, dataclass, fields
from math import sqrt

# Growth per hour, relative to the mean, that counts as flat.
LIMIT = 0.05
BLOCKS = 24
# Caches, pools and the allocator's arenas fill in the first minutes.
SHORTEST = 600


@dataclass
class Sample:
    """The newest process at one moment."""

    seconds: float
    pid: int
    at_rest: int
    rss_kib: int
    descriptors: int
    threads: int
    cpu_seconds: float
    connections: int
    old_processes: int


@dataclass
class Slope:
    """Growth per hour, with its standard error."""

    value: float
    error: float
    mean: float
    seconds: float

    def limit(self):
        # One descriptor or thread more is a step, not growth.
        return max(LIMIT * self.mean, 2)

    def verdict(self):
        if self.seconds < SHORTEST:
            return "too short to tell"
        if self.value - 2 * self.error > self.limit():
            return "grows"
        return "flat" if self.value + 2 * self.error <= self.limit() else "too short to tell"


def slope(times, values):
    """Fits a line to the means of blocks of samples, since neighbouring samples are correlated."""
    count = len(times)
    size = max(1, count // BLOCKS)
    mean = lambda numbers: sum(numbers) / len(numbers)
    blocks = [slice(start, start + size) for start in range(0, count - size + 1, size)]
    x = [mean(times[block]) / 3600 for block in blocks]
    y = [mean(values[block]) for block in blocks]
    if len(x) < 3:
        return Slope(0, float("inf"), mean(values), 0)
    mx, my = mean(x), mean(y)
    spread = sum((a - mx) ** 2 for a in x)
    rise = sum((a - mx) * (b - my) for a, b in zip(x, y)) / spread
    rest = sum((b - my - rise * (a - mx)) ** 2 for a, b in zip(x, y))
    return Slope(rise, sqrt(rest / (len(x) - 2) / spread), my, times[-1] - times[0])


def write_csv(path, samples):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Sample))
        for sample in samples:
            writer.writerow(round(value, 2) if isinstance(value, float) else value for value in astuple(sample))


STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.head { font-size: 16px; font-weight: 600 }
.case { font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de }
.line { fill: none; stroke: #0969da; stroke-width: 1.2 }
.rest { fill: #bc4c00 }
.mark { stroke: #bc4c00; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .line { stroke: #4493f8 }
  .rest { fill: #f0883e }
  .mark { stroke: #f0883e }
}
"""
WIDTH, LEFT, PANEL = 880, 64, 120


def round_up(value):
    """Returns the next higher number of the form 1, 2 or 5 times a power of ten."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= value:
                return factor * step
        step *= 10


def panel(top, title, samples, read, upgrades):
    end = max(sample.seconds for sample in samples)
    step = round_up(max(read(sample) for sample in samples) / 4)
    lines = max(1, -int(-max(read(sample) for sample in samples) // step))
    x = lambda seconds: LEFT + seconds / end * (WIDTH - LEFT - 16)
    y = lambda value: top + 20 + PANEL * (1 - value / (lines * step))
    out = [f'<text class="case" x="16" y="{top + 8}">{title}</text>']
    for n in range(lines + 1):
        out.append(f'<path class="grid" d="M{LEFT} {y(n * step):.1f} H{WIDTH - 16}"/>')
        out.append(f'<text class="small" x="16" y="{y(n * step) + 4:.1f}">{n * step}</text>')
    for seconds in upgrades:
        out.append(f'<path class="mark" d="M{x(seconds):.1f} {y(lines * step):.1f} V{y(0):.1f}"/>')
    for pid in dict.fromkeys(sample.pid for sample in samples):
        points = [f"{x(s.seconds):.1f} {y(read(s)):.1f}" for s in samples if s.pid == pid and not s.at_rest]
        if points:
            out.append(f'<path class="line" d="M{"L".join(points)}"/>')
    for s in samples:
        if s.at_rest:
            out.append(f'<circle class="rest" cx="{x(s.seconds):.1f}" cy="{y(read(s)):.1f}" r="3"/>')
    return out


def write_svg(path, samples, upgrades, subtitle):
    panels = [
        ("resident memory, MiB", lambda s: s.rss_kib / 1024),
        ("file descriptors", lambda s: s.descriptors),
        ("threads", lambda s: s.threads),
    ]
    height = 70 + len(panels) * (PANEL + 50) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        "<title>Memory, descriptors and threads during the soak test</title>",
        f"<style>{STYLE}</style>",
        '<text class="head" x="16" y="28">Memory, descriptors and threads during the soak test</text>',
        f'<text class="small" x="16" y="46">{subtitle}</text>',
    ]
    for n, (title, read) in enumerate(panels):
        out += panel(70 + n * (PANEL + 50), title, samples, read, upgrades)
    end = max(sample.seconds for sample in samples)
    step = round_up(end / 60 / 8)
    for n in range(int(end / 60 / step) + 1):
        x = LEFT + n * step * 60 / end * (WIDTH - LEFT - 16)
        out.append(f'<text class="small" x="{x - 8:.1f}" y="{height - 18}">{n * step} min</text>')
    out.append("</svg>")
    path.write_text("\n".join(out) + "\n")
