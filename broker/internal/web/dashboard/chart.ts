import uPlot from "uplot";
import { h } from "./dom";
import { local } from "./time";

export interface Line { label: string; color: string; values: (number | null)[] }

const color = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Chart is a drawing over time with a legend below it. What it shows is said in words for screen readers. */
export class Chart {
  readonly element = h("div", { class: "chart" });
  private readonly note = h("p", { class: "empty" }, "A sample is taken every 10 s; the drawing begins with the second.");
  private plot: uPlot | undefined;
  private last: { times: number[]; lines: Line[] } = { times: [], lines: [] };

  constructor(private readonly title: string, private readonly unit: string, signal: AbortSignal) {
    this.element.append(h("p", { class: "title" }, title), this.note);
    const watch = new ResizeObserver(() => {
      const width = this.element.clientWidth;
      if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: 190 });
    });
    watch.observe(this.element);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const again = () => { this.plot?.destroy(); this.plot = undefined; this.show(this.last.times, this.last.lines); };
    dark.addEventListener("change", again, { signal });
    signal.addEventListener("abort", () => { watch.disconnect(); this.plot?.destroy(); });
  }

  show(times: number[], lines: Line[]): void {
    this.last = { times, lines };
    this.note.hidden = times.length > 1;
    if (times.length < 2 || !this.element.isConnected) return;
    const data = [times, ...lines.map((l) => l.values)] as uPlot.AlignedData;
    this.element.setAttribute("role", "img");
    this.element.setAttribute("aria-label", `${this.title}: ${lines.map((l) => `${l.label} ${format(l.values.at(-1) ?? null)} ${this.unit}`).join(", ")}`);
    if (this.plot) {
      this.plot.setData(data);
      this.plot.setLegend({ idx: times.length - 1 });
      return;
    }
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
    this.plot = new uPlot({
      width: this.element.clientWidth || 400, height: 190,
      scales: { y: { range: (_u, _min, max) => [0, top(max)] } },
      axes: [{ ...axis, values: (_u, ticks) => ticks.map((t) => clock(t)) }, { ...axis, size: 56, values: (_u, ticks) => ticks.map((t) => format(t)) }],
      series: [{ label: "time", value: (_u: uPlot, t: number | null) => (t === null ? "–" : clock(t)) }, ...lines.map((l) => ({
        label: l.label, stroke: color(l.color), width: 2, points: { show: false }, spanGaps: false,
        value: (_u: uPlot, v: number | null) => (v === null ? "–" : `${format(v)} ${this.unit}`),
      }))],
    }, data, this.element);
    this.plot.setLegend({ idx: times.length - 1 });
  }
}

/** top is the end of the y axis: its ticks have two decimals, and must differ. */
const top = (max: number) => (max > 0 ? Math.max(max * 1.1, 0.05) : 1);

const clock = (seconds: number) => local(new Date(seconds * 1000).toISOString());

export function format(v: number | null): string {
  if (v === null) return "–";
  if (v >= 1e6) return `${(v / 1e6).toFixed(1)}M`;
  if (v >= 1e4) return `${(v / 1e3).toFixed(1)}k`;
  return Number.isInteger(v) ? String(v) : v.toFixed(v < 10 ? 2 : 0);
}

/** rates turns a counter into a number a second. A counter that falls began again with the server. */
export function rates(values: number[], times: number[]): (number | null)[] {
  return values.map((v, i) => {
    const seconds = i === 0 ? 0 : times[i]! - times[i - 1]!;
    return seconds > 0 ? Math.max(0, v - values[i - 1]!) / seconds : null;
  });
}
