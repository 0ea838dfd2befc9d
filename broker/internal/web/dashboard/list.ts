import { get, Problem } from "./api";
import { h, pill, table } from "./dom";
import { toAccount, toDevice, toNotification } from "./links";
import { ago, time } from "./time";
import type { Device, DeviceList, Notification, NotificationList } from "./types";
import { kindOfState } from "./words";

export function channelPill(d: Device): HTMLElement {
  return d.channel.state === "up" ? pill("good", "up") : pill("none", "down");
}

export function deviceTable(devices: Device[], account: boolean): HTMLElement {
  const columns = ["Device", ...(account ? ["Account"] : []), "Channel", "Last heartbeat", "App", "Push", "Outstanding"];
  return table("Devices", columns, devices.map((d) => [
    toDevice(d.account, d.device), ...(account ? [toAccount(d.account)] : []), channelPill(d),
    d.channel.last_heartbeat ? ago(d.channel.last_heartbeat) : "–", d.app ?? "–", registrationWords(d), d.outstanding,
  ]));
}

function registrationWords(d: Device): HTMLElement | string {
  const alert = d.registrations?.find((r) => r.kind === "alert");
  if (!alert) return "none";
  if (alert.ended) return pill("bad", `${alert.server}: ended`);
  if (alert.suspended) return pill("wait", `${alert.server}: suspended`);
  return alert.server;
}

export function notificationTable(list: Notification[]): HTMLElement {
  return table("Notifications", ["Accepted", "State", "Title", "Account", "ID"], list.map((n) => [
    time(n.accepted_at), pill(kindOfState(n.state), n.state), h("span", { class: "clip" }, n.title ?? n.body ?? "–"), toAccount(n.account), toNotification(n.id),
  ]));
}

/** pages shows the first page of a list, and a button for the next. */
export async function pages<T extends { next?: string }>(box: HTMLElement, path: string, signal: AbortSignal, show: (page: T) => HTMLElement | null, empty: HTMLElement): Promise<void> {
  const none = h("p", { class: "soft" }, "None of the latest fits. There may be older ones.");
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "button", hidden: true, click: () => void further() }, "Show more");
  let any = false, cursor = "", loading = false;
  const more = async () => {
    const page = await get<T>(path + (cursor ? `${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}` : ""), signal);
    const shown = show(page);
    any ||= shown !== null;
    none.remove();
    if (shown) button.before(shown);
    else if (page.next) button.before(none); // the server looks at a part of the history at a time
    else if (!any) button.before(empty);
    cursor = page.next ?? "";
    button.hidden = !cursor;
  };
  const further = async () => {
    if (loading) return;
    loading = true;
    problem.textContent = "";
    await more().catch((e: unknown) => { problem.textContent = e instanceof Problem ? e.message : String(e); });
    loading = false;
  };
  box.append(button, problem);
  await more();
}

export const showNotifications = (p: NotificationList) => (p.notifications.length ? notificationTable(p.notifications) : null);
export const showDevices = (account: boolean) => (p: DeviceList) => (p.devices.length ? deviceTable(p.devices, account) : null);
