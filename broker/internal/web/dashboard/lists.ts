import { get, level } from "./api";
import { card, h } from "./dom";
import { toAccount, toDevice, toNotification } from "./links";
import { pages, showDevices, showNotifications } from "./list";
import type { DeviceList, Found, NotificationList, View } from "./types";

const states = ["pending", "published", "pushing", "pushed", "waiting", "acked", "expired", "superseded", "cancelled"];

/** notifications lists them, by account, device and state. */
export const notifications: View = async (main, signal, params) => {
  const form = h("form", { class: "filters", "aria-label": "Filters" },
    field("Account", h("input", { name: "account", value: params.get("account") ?? "", maxlength: 128, autocapitalize: "none", spellcheck: "false" })),
    field("Device", h("input", { name: "device", value: params.get("device") ?? "", maxlength: 128, autocapitalize: "none", spellcheck: "false" })),
    field("State", h("select", { name: "state" }, h("option", { value: "" }, "any"),
      ...states.map((s) => h("option", { value: s, selected: s === params.get("state") }, s)))),
    h("button", { type: "submit" }, "Show"));
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    const q = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value) q.set(name, String(value));
    location.hash = `#/notifications${q.size ? `?${q}` : ""}`;
  });
  const box = h("div", { class: "pages" });
  main.append(h("h1", {}, "Notifications"), h("section", { class: "card" }, form, box));
  const q = new URLSearchParams({ limit: "50" });
  for (const name of ["account", "device", "state"]) if (params.get(name)) q.set(name, params.get(name)!);
  await pages<NotificationList>(box, `v1/notifications?${q}`, signal, showNotifications,
    h("p", { class: "empty" }, q.size > 1 ? "No notification matches." : "No notification has been accepted yet."));
};

function field(label: string, input: HTMLElement): HTMLElement {
  return h("label", {}, h("span", {}, label), input);
}

/** devices lists all of them by ID. */
export const devices: View = async (main, signal) => {
  const box = h("div", { class: "pages" });
  main.append(h("h1", {}, "Devices"), h("section", { class: "card" }, box));
  await pages<DeviceList>(box, "v1/devices?limit=100", signal, showDevices(true),
    h("p", { class: "empty" }, "No device is known yet. One is known from its first subscription to its notifications topic, or its first push token."));
};

/** account shows its devices and its notifications. */
export const account: View = async (main, signal, _params, name = "") => {
  const list = h("div", { class: "pages" });
  const sent = h("div", { class: "pages" });
  main.append(h("h1", {}, h("span", { class: "soft" }, "Account "), name), card("Devices", list), card("Notifications", sent));
  await Promise.all([
    pages<DeviceList>(list, `v1/accounts/${level(name)}/devices`, signal, showDevices(false), h("p", { class: "empty" }, "This account has no device.")),
    pages<NotificationList>(sent, `v1/notifications?limit=50&account=${level(name)}`, signal, showNotifications,
      h("p", { class: "empty" }, "No notification of this account is in the history.")),
  ]);
};

/** search looks for a notification, a device and an account of that name. */
export const search: View = async (main, signal, params) => {
  const q = params.get("q") ?? "";
  main.append(h("h1", {}, h("span", { class: "soft" }, "Search "), q));
  const f = await get<Found>(`v1/search?${new URLSearchParams({ q })}`, signal);
  const found: HTMLElement[] = [];
  if (f.notification) found.push(h("li", {}, "Notification ", toNotification(f.notification)));
  if (f.device) found.push(h("li", {}, "Device ", toDevice(f.device.account, f.device.device), " of account ", toAccount(f.device.account)));
  if (f.account) found.push(h("li", {}, "Account ", toAccount(f.account)));
  if (found.length === 1) location.replace((found[0]!.querySelector("a") as HTMLAnchorElement).href);
  main.append(h("section", { class: "card" }, found.length ? h("ul", {}, ...found)
    : h("p", { class: "empty" }, "No notification, device or account has this name. History keeps final notifications for a while only (store.history).")));
};
