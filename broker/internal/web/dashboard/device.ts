import { act, level, Problem } from "./api";
import { announce, card, type Child, confirmed, facts, h, pill, redraw, table } from "./dom";
import { toAccount } from "./links";
import { channelPill, pages, showNotifications } from "./list";
import { poll } from "./poll";
import { ago, local, time } from "./time";
import type { Device, NotificationList, Registration, View } from "./types";

/** device shows one device, and acts on it. */
export const device: View = async (main, signal, _params, account = "", id = "") => {
  const path = `v1/accounts/${level(account)}/devices/${level(id)}`;
  const top = h("div", { class: "stack" });
  const sent = h("div", { class: "pages" });
  const problem = h("p", { class: "problem", role: "alert" });
  const doing = (f: () => Promise<void>) => () => {
    problem.textContent = "";
    f().catch((e: unknown) => { problem.textContent = e instanceof Problem ? e.message : String(e); });
  };
  const test = doing(async () => {
    const n = await act<{ id: string }>("POST", "v1/notifications", {
      account, devices: [id], title: "Test", body: `Sent from the dashboard at ${local(new Date().toISOString())}`, ttl: "10m",
    });
    if (n) location.hash = `#/notifications/${level(n.id)}`;
  });
  const disconnect = doing(async () => {
    await act("POST", `v1/devices/${level(id)}/disconnect`);
    announce("Disconnected");
  });
  const forget = doing(async () => {
    if (!await confirmed(`Forget the device ${id}? Its registrations go, and what is outstanding for it is cancelled.`, "Forget it")) return;
    await act("DELETE", path);
    location.hash = `#/accounts/${level(account)}`;
  });
  main.append(
    h("h1", {}, h("span", { class: "soft" }, "Device "), id),
    top,
    h("div", { class: "row" },
      h("button", { type: "button", class: "primary", click: test }, "Send a test notification"),
      h("button", { type: "button", click: disconnect }, "Disconnect"),
      h("button", { type: "button", class: "danger", click: forget }, "Forget")),
    problem,
    card("Its notifications", sent));
  await Promise.all([
    poll<Device>(main, signal, path, (d) => {
      redraw(top, ...draw(d));
      return 3000;
    }),
    pages<NotificationList>(sent, `v1/notifications?limit=20&account=${level(account)}&device=${level(id)}`, signal, showNotifications,
      h("p", { class: "empty" }, "No notification for this device is in the history.")),
  ]);
};

function draw(d: Device): HTMLElement[] {
  const c = d.channel;
  const rows: [string, Child][] = [
    ["Account", toAccount(d.account)], ["Channel", channelPill(d)], ["Since", time(c.since)],
    ["Last heartbeat", c.last_heartbeat ? h("time", { datetime: c.last_heartbeat, title: c.last_heartbeat }, ago(c.last_heartbeat)) : "–"],
    ["Keepalive", c.keepalive ? `${c.keepalive} s` : "–"], ["Connected from", c.remote ? h("code", {}, c.remote) : "–"],
    ["App", d.app ?? "never reported"], ["By", d.via], ["Outstanding", d.outstanding],
  ];
  return [
    h("section", { class: "card" }, h("h2", { class: "hidden" }, "State"), facts(rows)),
    card("Registrations", d.registrations?.length
      ? table("Registrations", ["Server", "App", "Kind", "Registered", "State"], d.registrations.map((r) => [
        r.server, [r.app, r.environment].filter(Boolean).join(", ") || "–", r.kind, time(r.registered_at), stateOf(r)]))
      : h("p", { class: "empty" }, "None: while it is offline, nothing can be pushed to this device.")),
  ];
}

function stateOf(r: Registration): HTMLElement {
  if (r.ended) return h("span", {}, pill("bad", "ended"), " ", time(r.ended.at), `: ${r.ended.reason}`);
  if (!r.suspended) return pill("good", "in use");
  return h("span", {}, pill("wait", "suspended"), " since ", time(r.suspended.since), `: ${r.suspended.reason}`,
    ...(r.suspended.next_probe ? [". Next probe ", time(r.suspended.next_probe)] : []));
}
