import { get, stream } from "./api";
import { Chart, rates } from "./chart";
import { card, h, pill, redraw, table } from "./dom";
import { toAccount, toDevice, toNotification } from "./links";
import { notificationTable } from "./list";
import { span, time } from "./time";
import type { Happened, Metric, NotificationList, Now, Overview, View } from "./types";
import { inWords, kindOfEvent } from "./words";

const eventsShown = 30;

/** overview shows the whole server, live. */
export const overview: View = async (main, signal) => {
  const latest = await get<NotificationList>("v1/notifications?limit=10", signal);
  const health = h("div", { class: "health" });
  const tiles = h("div", { class: "tiles" });
  const rate = new Chart("Notifications", "/s", signal);
  const latency = new Chart("From acceptance to acknowledgement", "ms", signal);
  const clients = new Chart("Connections and outstanding deliveries", "", signal);
  const funnel = h("div", { class: "funnel" });
  const apps = h("div");
  const webhooks = h("div");
  const live = h("ol", { class: "live" });
  const feed = h("p", { class: "soft small" }, "Waiting for the first event.");
  const content = [
    h("h1", {}, "Overview"), health, tiles,
    h("div", { class: "grid" }, h("section", { class: "card" }, rate.element), h("section", { class: "card" }, latency.element),
      h("section", { class: "card" }, clients.element), card("The last hour", funnel)),
    card("Notification servers", apps),
    card("Webhooks", webhooks),
    card("Happening now", feed, live),
    card("Latest notifications when this page was opened", latest.notifications.length ? notificationTable(latest.notifications)
      : h("p", { class: "empty" }, "No notification has been accepted yet. Send one: ", h("code", {}, "heartline send --account alice --title Hello"))),
  ];

  // The figures are of one node. Each connection of the stream may be to another, and brings its history.
  let times: number[] = [], series: Record<string, number[]> = {};
  const line = (name: string) => series[name] ?? times.map(() => 0);
  const draw = () => {
    rate.show(times, [
      { label: "accepted", color: "--accent", values: rates(line("accepted"), times) },
      { label: "acknowledged", color: "--up", values: sum(rates(line("received"), times), rates(line("displayed"), times)) },
      { label: "pushed", color: "--wait", values: rates(line("pushed"), times) },
    ]);
    const millis = (name: string) => line(name).map((v) => (v < 0 ? null : v * 1000));
    latency.show(times, [{ label: "p50", color: "--up", values: millis("ack_p50") }, { label: "p99", color: "--wait", values: millis("ack_p99") }]);
    clients.show(times, [{ label: "connections", color: "--up", values: line("clients") }, { label: "outstanding", color: "--accent", values: line("outstanding") }]);
    redraw(funnel, ...drawFunnel(series));
  };
  const now = (n: Overview) => {
    if (!content[0]!.isConnected) main.append(...content);
    if (n.history) ({ time: times, series } = n.history);
    redraw(health, ...drawHealth(n));
    redraw(tiles, ...drawTiles(n));
    redraw(apps, drawApps(n));
    redraw(webhooks, drawWebhooks(n));
    for (const e of n.events ?? []) live.prepend(happened(e));
    while (live.children.length > eventsShown) live.lastElementChild!.remove();
    if (n.events?.length) feed.textContent = n.skipped ? `${n.skipped} more in the last 2 s are not shown here.` : "";
    const isNew = (n.sample?.time ?? 0) > (times.at(-1) ?? 0);
    if (n.sample && isNew) {
      for (const [name, value] of Object.entries(n.sample.values)) (series[name] ??= times.map(() => 0)).push(value);
      times.push(n.sample.time);
    }
    if (times.length > 360) {
      times.shift();
      for (const s of Object.values(series)) s.shift();
    }
    if (isNew || n.history) draw();
  };
  await stream("v1/overview/stream", signal, (data) => now(JSON.parse(data) as Overview), () => {
    redraw(health, pill("bad", "no connection"), h("span", {}, " Heartline does not answer; trying again."));
  });
};

const sum = (a: (number | null)[], b: (number | null)[]) => a.map((v, i) => (v === null ? null : v + (b[i] ?? 0)));

export function metric(n: Now, name: string, labels: Record<string, string> = {}): number {
  return n.metrics.filter((m) => m.name === name && Object.entries(labels).every(([k, v]) => m.labels?.[k] === v)).reduce((all, m) => all + m.value, 0);
}

function drawHealth(n: Now): HTMLElement[] {
  const bad = n.faults ?? [];
  return [
    n.ready ? bad.length ? pill("wait", "accepting, with faults") : pill("good", "healthy") : pill("bad", "not ready"),
    h("span", { class: "soft" }, n.node ? ` Node ${n.node}, ` : " ", `${n.version}, up ${span(Date.now() - new Date(n.started_at).getTime())}`),
    ...bad.map((part) => h("p", { class: "notice bad" }, h("strong", {}, part), `: ${n.checks?.[part] ?? ""}`)),
  ];
}

function drawTiles(n: Now): HTMLElement[] {
  const ack = n.metrics.find((m) => m.name === "heartline_ack_seconds" && m.labels?.ack === "received" && m.value > 0);
  const tile = (label: string, value: string | number, name: string, event = "") =>
    h("div", { class: "tile", "data-metric": name, "data-event": event }, h("strong", {}, typeof value === "number" ? value.toLocaleString() : value), h("span", {}, label));
  const events = (event: string) => tile(inTiles[event] ?? event, metric(n, "heartline_events_total", { event }), "heartline_events_total", event);
  return [
    tile("connections", metric(n, "heartline_mqtt_clients"), "heartline_mqtt_clients"),
    tile("outstanding", metric(n, "heartline_deliveries_outstanding"), "heartline_deliveries_outstanding"),
    events("accepted"), events("received"), events("displayed"), events("pushed"), events("expired"),
    tile("p99 to the ack", ack?.p99 === undefined ? "–" : span(ack.p99 * 1000), "heartline_ack_seconds"),
  ];
}

const inTiles: Record<string, string> = { accepted: "accepted", received: "received", displayed: "shown", pushed: "pushed", expired: "expired" };

// drawFunnel is what the last hour brought, as far as the server has run.
function drawFunnel(series: Record<string, number[]>): HTMLElement[] {
  const grown = (name: string) => {
    const s = series[name] ?? [];
    return s.reduce((all, v, i) => all + (i ? Math.max(0, v - s[i - 1]!) : 0), 0);
  };
  const rows: [string, number, string][] = [
    ["Accepted", grown("accepted"), "accent"], ["Published over the channel", grown("published"), "up"], ["Pushed", grown("pushed"), "wait"],
    ["Published again on return", grown("redelivered"), "up"], ["Acknowledged", grown("received") + grown("displayed"), "up"],
    ["Expired", grown("expired"), "bad"], ["Cancelled or superseded", grown("cancelled") + grown("superseded"), "soft"],
  ];
  const most = Math.max(1, ...rows.map(([, n]) => n));
  return rows.map(([label, n, kind]) => {
    const bar = h("div", { class: `bar ${kind}` });
    bar.style.width = `${n / most * 100}%`;
    return h("div", { class: "step" }, h("span", {}, label), h("span", { class: "track", "aria-hidden": "true" }, bar), h("strong", {}, n.toLocaleString()));
  });
}

const appName = (m: Metric) => [m.labels?.server, m.labels?.app, m.labels?.environment].filter(Boolean).join(" ");

function drawApps(n: Now): HTMLElement {
  const ready = n.metrics.filter((m) => m.name === "heartline_push_ready");
  if (!ready.length) return h("p", { class: "empty" }, "None is switched on: a device that is offline is reached when it returns. See ", h("code", {}, "fallback"), " in the configuration.");
  return table("Notification servers", ["App", "State", "Waiting", "Under way", "Accepted", "Refused"], ready.map((m) => {
    const labels = m.labels ?? {};
    const outcomes = (accepted: boolean) => n.metrics
      .filter((x) => x.name === "heartline_pushes_total" && appName(x) === appName(m) && (x.labels?.outcome === "accepted") === accepted)
      .reduce((all, x) => all + x.value, 0);
    const why = n.checks?.[`push ${[labels.server, labels.app, labels.environment].filter(Boolean).join("/")}`];
    return [appName(m), m.value === 1 ? pill("good", "ok") : h("span", {}, pill("bad", "paused"), why ? ` ${why}` : ""),
      metric(n, "heartline_push_queue", labels), metric(n, "heartline_push_in_flight", labels), outcomes(true), outcomes(false)];
  }));
}

function drawWebhooks(n: Now): HTMLElement {
  const all = n.metrics.filter((m) => m.name === "heartline_webhook_up");
  if (!all.length) return h("p", { class: "empty" }, "None is configured. See ", h("code", {}, "receipts.webhooks"), " in the configuration.");
  return table("Webhooks", ["Webhook", "State", "Lag", "To be retried", "Parked", "Delivered", "Failed requests"], all.map((m) => {
    const of = (name: string) => metric(n, `heartline_webhook_${name}`, m.labels);
    const lag = h("span", { "data-metric": "heartline_webhook_lag_seconds" }, span(of("lag_seconds") * 1000));
    return [m.labels?.webhook ?? "", m.value === 1 ? pill("good", "ok") : pill("bad", "failing or disabled"),
      lag, of("deferred"), of("parked"), of("delivered_total"), of("failed_total")];
  }));
}

function happened(e: Happened): HTMLElement {
  return h("li", { class: kindOfEvent(e.event) }, time(e.time, true), " ", h("strong", {}, inWords(e.event)), " ",
    e.device ? toDevice(e.account, e.device) : toAccount(e.account), " ", e.id ? toNotification(e.id) : "", e.detail ? h("span", { class: "detail" }, e.detail) : null);
}

