"""SVG plots without a library: bars, an axis and a legend."""
import html
import math

WIDTH = 860
COLOURS = {"llama.cpp": "#c9762b", "tern": "#2b6cb0", "bound": "#9aa5b1"}
INK = "#1f2933"
GRID = "#d9dee4"


class Canvas:
    def __init__(self, height, title):
        self.height = height
        self.parts = [f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>']
        self.text(16, 24, title, size=15, weight="bold")

    def text(self, x, y, text, size=12, anchor="start", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
                          f'font-weight="{weight}" fill="{INK}">{html.escape(text)}</text>')

    def bar(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
                          f'height="{max(height, 0.5):.1f}" fill="{colour}"/>')

    def line(self, x1, y1, x2, y2, colour=GRID, width=1):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
                          f'stroke-width="{width}"/>')

    def legend(self, names, y):
        x = 16
        for name in names:
            self.bar(x, y - 10, 12, 12, COLOURS[name])
            self.text(x + 18, y, name)
            x += 30 + 8 * len(name)

    def svg(self):
        body = "\n".join(self.parts)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" '
                f'height="{self.height}" font-family="sans-serif">\n{body}\n</svg>\n')


def log_bars(title, groups):
    """GROUPS: (heading, [(label, whose, seconds)]). Each step of the axis is ten times the last."""
    left, right, top, step = 190, 90, 60, 24
    values = [value for _, bars in groups for _, _, value in bars]
    bottom = top + step * (len(values) + len(groups))
    canvas = Canvas(bottom + 34, title)
    low = math.floor(math.log10(min(values)) - 1e-9)
    high = max(math.ceil(math.log10(max(values)) - 1e-9), low + 1)
    scale = (WIDTH - left - right) / (high - low)
    for power in range(low, high + 1):
        x = left + (power - low) * scale
        canvas.line(x, top, x, bottom)
        canvas.text(x, bottom + 18, f"{10.0 ** power:g} s" if power >= 0 else f"{10.0 ** (power + 3):g} ms",
                    anchor="middle")
    y = top
    for heading, bars in groups:
        canvas.text(16, y + 17, heading, weight="bold")
        y += step
        for label, whose, value in bars:
            width = (math.log10(value) - low) * scale
            canvas.text(left - 8, y + 12, label, anchor="end")
            canvas.bar(left, y, width, step - 8, COLOURS[whose])
            canvas.text(left + width + 6, y + 12, f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms")
            y += step
    canvas.legend(["llama.cpp", "tern"], 46)
    return canvas.svg()


def round_step(top):
    """A step of 1, 2 or 5 times a power of ten, of which at most six reach TOP."""
    power = 10.0 ** math.floor(math.log10(top / 6))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 6 >= top)


def grouped_bars(title, unit, groups):
    """GROUPS: (label, {whose: value}), as upright bars side by side."""
    left, right, top, bottom, height = 60, 20, 66, 36, 380
    canvas = Canvas(height, title)
    most = max(value for _, values in groups for value in values.values())
    step = round_step(most)
    scale = (height - top - bottom) / (step * math.ceil(most / step))
    ground = height - bottom
    for number in range(math.ceil(most / step) + 1):
        y = ground - number * step * scale
        canvas.line(left, y, WIDTH - right, y)
        canvas.text(left - 6, y + 4, f"{number * step:g}", anchor="end")
    room = (WIDTH - left - right) / len(groups)
    width = min(44, room / 4)
    for index, (label, values) in enumerate(groups):
        middle = left + (index + 0.5) * room
        canvas.text(middle, ground + 20, label, anchor="middle")
        shown = [whose for whose in COLOURS if whose in values]
        for place, whose in enumerate(shown):
            x = middle + (place - len(shown) / 2) * width
            canvas.bar(x + 2, ground - values[whose] * scale, width - 4, values[whose] * scale, COLOURS[whose])
            canvas.text(x + width / 2, ground - values[whose] * scale - 4, f"{values[whose]:.0f}", size=10,
                        anchor="middle")
    canvas.legend([whose for whose in COLOURS if any(whose in values for _, values in groups)], 46)
    canvas.text(WIDTH - right, 46, unit, anchor="end")
    return canvas.svg()
