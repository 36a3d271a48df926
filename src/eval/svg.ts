/** Line charts as SVG text: axes, lines, bands and a legend, nothing else. Pure. */

export interface Line {
  readonly name: string;
  readonly color: string;
  readonly points: readonly Point[];
  readonly isDashed?: boolean;
}

interface Point {
  readonly x: number;
  readonly y: number;
  /** Interval of y; drawn as a band. */
  readonly low?: number;
  readonly high?: number;
}

export interface Chart {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly x: readonly [min: number, max: number];
  /** Ticks of the x axis. */
  readonly xTicks: readonly number[];
  /** y runs from 0 to 1 and is shown in percent. */
  readonly lines: readonly Line[];
}

const width = 420;
const height = 320;
const margin = { left: 56, right: 16, top: 34, bottom: 84 };
const plot = { width: width - margin.left - margin.right, height: height - margin.top - margin.bottom };

/** The charts side by side, under one title. */
export function renderCharts(title: string, charts: readonly Chart[]): string {
  const total = width * charts.length;
  const body = charts.map((chart, index) => `<g transform="translate(${index * width},28)">${renderChart(chart)}</g>`);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${total} ${height + 28}" width="${total}" height="${height + 28}" font-family="sans-serif" font-size="11">`,
    `<rect width="100%" height="100%" fill="#fff"/>`,
    `<text x="12" y="20" font-size="13" font-weight="bold">${escapeText(title)}</text>`,
    ...body,
    '</svg>',
    '',
  ].join('\n');
}

function renderChart({ title, xLabel, yLabel, x, xTicks, lines }: Chart): string {
  const span = x[1] - x[0] || 1;
  const px = (value: number): string => (margin.left + ((value - x[0]) / span) * plot.width).toFixed(1);
  const py = (value: number): string => (margin.top + (1 - Math.min(1, Math.max(0, value))) * plot.height).toFixed(1);
  const bottom = margin.top + plot.height;
  const parts = [
    `<text x="${margin.left}" y="${margin.top - 12}" font-weight="bold">${escapeText(title)}</text>`,
    `<text x="${margin.left + plot.width / 2}" y="${bottom + 32}" text-anchor="middle">${escapeText(xLabel)}</text>`,
    `<text transform="translate(14,${margin.top + plot.height / 2}) rotate(-90)" text-anchor="middle">${escapeText(yLabel)}</text>`,
  ];
  for (const y of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(
      `<line x1="${margin.left}" x2="${margin.left + plot.width}" y1="${py(y)}" y2="${py(y)}" stroke="#ddd"/>`,
      `<text x="${margin.left - 6}" y="${py(y)}" dy="4" text-anchor="end">${y * 100} %</text>`,
    );
  }
  for (const tick of xTicks) {
    parts.push(`<text x="${px(tick)}" y="${bottom + 16}" text-anchor="middle">${tick}</text>`);
  }
  for (const { color, points } of lines) {
    const banded = points.filter(({ low, high }) => low !== undefined && high !== undefined);
    if (banded.length < 2) continue;
    const upper = banded.map((point) => `${px(point.x)},${py(point.high ?? point.y)}`);
    const lower = banded.map((point) => `${px(point.x)},${py(point.low ?? point.y)}`).reverse();
    parts.push(`<polygon points="${[...upper, ...lower].join(' ')}" fill="${color}" opacity="0.15"/>`);
  }
  lines.forEach(({ name, color, points, isDashed }, index) => {
    const dash = isDashed ? ' stroke-dasharray="5 4"' : '';
    const coordinates = points.map((point) => `${px(point.x)},${py(point.y)}`).join(' ');
    parts.push(`<polyline points="${coordinates}" fill="none" stroke="${color}" stroke-width="2"${dash}/>`);
    if (points.length <= 30) {
      for (const point of points)
        parts.push(`<circle cx="${px(point.x)}" cy="${py(point.y)}" r="2.5" fill="${color}"/>`);
    }
    const left = margin.left + (index % 3) * (plot.width / 3);
    const top = bottom + 50 + Math.floor(index / 3) * 16;
    parts.push(
      `<line x1="${left}" x2="${left + 18}" y1="${top}" y2="${top}" stroke="${color}" stroke-width="2"${dash}/>`,
      `<text x="${left + 23}" y="${top}" dy="4">${escapeText(name)}</text>`,
    );
  });
  return parts.join('\n');
}

function escapeText(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
