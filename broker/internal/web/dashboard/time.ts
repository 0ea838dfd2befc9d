import { h } from "./dom";

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const date = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

/** utc is the time as the API says it, for a tooltip. */
export const utc = (iso: string) => new Date(iso).toISOString().replace("T", " ").replace("Z", " UTC");

const sameDay = (a: Date, b: Date) => a.toDateString() === b.toDateString();

/** local is a time in the viewer's zone, with its date where that is not today. */
export function local(iso: string, millis = false): string {
  const t = new Date(iso);
  if (Number.isNaN(t.getTime())) return iso;
  const text = clock.format(t) + (millis ? `.${String(t.getMilliseconds()).padStart(3, "0")}` : "");
  return sameDay(t, new Date()) ? text : `${date.format(t)}, ${text}`;
}

/** time is local, with UTC in its tooltip. */
export function time(iso: string | undefined, millis = false): HTMLElement {
  if (!iso) return h("span", { class: "soft" }, "–");
  return h("time", { datetime: iso, title: utc(iso) }, local(iso, millis));
}

/** span is a length of time in words; of milliseconds. */
export function span(ms: number): string {
  ms = Math.max(0, Math.round(ms));
  if (ms < 1000) return `${ms} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (ms < 172_800_000) return `${(ms / 3_600_000).toFixed(1)} h`;
  return `${Math.floor(ms / 86_400_000)} days`;
}

export const ago = (iso: string) => `${span(Date.now() - new Date(iso).getTime())} ago`;

/** localized puts the viewer's zone into a sentence with times of RFC 3339. */
export function localized(sentence: string): string {
  return sentence.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, (iso) => local(iso));
}
