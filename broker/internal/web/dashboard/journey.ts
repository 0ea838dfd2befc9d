import { act, level, Problem } from "./api";
import { announce, card, type Child, confirmed, facts, h, pill, redraw, s } from "./dom";
import { toAccount, toDevice } from "./links";
import { poll } from "./poll";
import { local, localized, span, time } from "./time";
import type { Delivery, Notification, TimelineEvent, View } from "./types";
import { inWords, kindOfEvent, kindOfState, laneOf } from "./words";

const final = new Set(["acked", "expired", "superseded", "cancelled"]);

/** journey shows what became of one notification. */
export const journey: View = async (main, signal, _params, id = "") => {
  const box = h("div", { class: "journey" });
  main.append(box);
  const path = `v1/notifications/${level(id)}`;
  let shown: Notification | undefined;
  let problem = "";
  const show = (n: Notification) => redraw(box, ...draw(n, problem, end));
  const end = async (method: string, part: string) => {
    if (method === "DELETE" && !await confirmed("Cancel this notification for all devices that have not acknowledged it?", "Cancel it")) return;
    const said = (text: string) => {
      problem = text;
      if (shown) show(shown);
    };
    said("");
    await act(method, path + part).catch((e: unknown) => said(e instanceof Problem ? e.message : String(e)));
  };
  await poll<Notification>(main, signal, path, (n) => {
    const verdict = localized(n.verdict ?? n.state);
    if (shown && verdict !== localized(shown.verdict ?? shown.state)) announce(verdict);
    shown = n;
    show(n);
    return final.has(n.state) ? 10_000 : 1000;
  });
};

function draw(n: Notification, problem: string, end: (method: string, part: string) => Promise<void>): HTMLElement[] {
  const open = !final.has(n.state);
  return [
    h("h1", {}, h("span", { class: "soft" }, "Notification "), n.title || n.body || n.id),
    h("p", { class: `verdict ${kindOfState(n.state)}` }, localized(n.verdict ?? n.state)),
    h("section", { class: "card" },
      h("h2", { class: "hidden" }, "Content"),
      facts([
        ["ID", h("code", {}, n.id)], ["Account", toAccount(n.account)], ["State", pill(kindOfState(n.state), n.state)],
        ["Accepted", time(n.accepted_at, true)], ["Expires", time(n.expires_at)], ["Urgency", n.urgency], ["Ack asked for", n.ack],
        ...(n.subtitle ? [["Subtitle", n.subtitle] as [string, Child]] : []),
        ...(n.title && n.body ? [["Body", h("span", { class: "body" }, n.body)] as [string, Child]] : []),
        ...(n.collapse_key ? [["Collapse key", h("code", {}, n.collapse_key)] as [string, Child]] : []),
        ...(n.fallback === false ? [["Push", "forbidden by the request"] as [string, Child]] : []),
        ...(n.extra ? [["Extra", h("code", {}, JSON.stringify(n.extra))] as [string, Child]] : []),
      ]),
      h("div", { class: "row" },
        h("button", { type: "button", id: "cancel", disabled: !open, click: () => void end("DELETE", "") }, "Cancel"),
        h("button", { type: "button", id: "dismiss", click: () => void end("POST", "/dismissal") }, "Take it off the screens")),
      h("p", { class: "problem", role: "alert" }, problem)),
    ...n.deliveries.map((d) => lane(n, d)),
    ...(n.deliveries.length ? [] : [card("Deliveries", h("p", { class: "empty" }, "The account has no device yet: the first one that registers gets it."))]),
  ];
}

// lane draws the way to one device: a line for the channel, a line for the push
// server, a dot for each event.
function lane(n: Notification, d: Delivery): HTMLElement {
  const events = (n.timeline ?? []).filter((e) => !e.device || e.device === d.device);
  let before = new Date(n.accepted_at).getTime();
  const rows = events.map((e, i) => {
    const at = new Date(e.time).getTime();
    const gap = i === 0 ? "" : `+${span(at - before)}`;
    before = at;
    return h("li", { class: kindOfEvent(e.event) },
      h("span", { class: "at" }, h("time", { datetime: e.time, title: new Date(e.time).toISOString() }, local(e.time, true)), h("span", { class: "gap" }, gap)),
      gutter(events, i),
      h("span", { class: "what" },
        h("strong", {}, inWords(e.event)), h("code", { class: "soft" }, e.event),
        e.attempt ? h("span", { class: "soft" }, ` attempt ${e.attempt}`) : null,
        e.detail ? h("span", { class: "detail" }, e.detail) : null));
  });
  return h("section", { class: "card" },
    h("h2", {}, toDevice(n.account, d.device), " ", pill(kindOfState(d.state), d.state)),
    d.verdict ? h("p", {}, localized(d.verdict)) : null,
    h("p", { class: "soft small" }, `${d.attempts} ${d.attempts === 1 ? "publish" : "publishes"} over the channel, ${d.pushed ? "one accepted push" : "no accepted push"}.`),
    h("div", { class: "lanes", "aria-hidden": "true" }, h("span", {}, "channel"), h("span", {}, "push")),
    h("ol", { class: "timeline" }, ...rows));
}

const x = { channel: 20, both: 44, push: 68 };

// gutter draws one event's part of the two lines. The lines stretch with the row, the
// dot does not.
function gutter(events: TimelineEvent[], i: number): HTMLElement {
  const here = laneOf(events[i]!.event);
  const way = (other: TimelineEvent | undefined, from: number, to: number) =>
    other && s("line", { x1: (x[laneOf(other.event)] + x[here]) / 2, y1: from, x2: x[here], y2: to, class: "way" });
  const dot = h("span", { class: `dot ${kindOfEvent(events[i]!.event)}` });
  dot.style.left = `${x[here]}px`;
  return h("span", { class: "gutter", "aria-hidden": "true" },
    s("svg", { viewBox: "0 0 88 100", preserveAspectRatio: "none" },
      s("line", { x1: x.channel, x2: x.channel, y1: 0, y2: 100, class: "rail" }),
      s("line", { x1: x.push, x2: x.push, y1: 0, y2: 100, class: "rail" }),
      way(events[i - 1], 0, 50), way(events[i + 1], 100, 50)),
    dot);
}
