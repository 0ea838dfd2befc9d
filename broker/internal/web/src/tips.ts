// Tips are the system's notifications.
import type { Data, News } from "./news";
import type { Pseudo } from "./client/wire";

export type Permission = "granted" | "denied" | "default" | "unavailable";

export function permission(): Permission {
  // Only https and localhost have them.
  return "Notification" in window && isSecureContext ? Notification.permission : "unavailable";
}

let registration: Promise<ServiceWorkerRegistration> | undefined;

// prepare registers the service worker that shows the tips, where there may be one.
// onNews is called for each message of the worker.
export function prepare(onNews: (n: News) => void): void {
  if (!isSecureContext || !("serviceWorker" in navigator)) return;
  registration = navigator.serviceWorker.register("sw.js").then(() => navigator.serviceWorker.ready);
  registration.catch((err) => console.warn("no service worker, tips come from the page:", err));
  navigator.serviceWorker.addEventListener("message", (e: MessageEvent<News>) => onNews(e.data));
  navigator.serviceWorker.startMessages();
}

// worker is the registration of the service worker, undefined where there is none.
export async function worker(): Promise<ServiceWorkerRegistration | undefined> {
  return registration?.catch(() => undefined);
}

export async function ask(): Promise<void> {
  await Notification.requestPermission();
}

// close takes tips off the screen: that of a notification, or all of a device.
export async function close(owner: string, id?: string): Promise<void> {
  const shown = (await (await worker())?.getNotifications()) ?? [];
  for (const tip of shown) {
    const data: Partial<Data> | null = tip.data;
    if (data?.owner === owner && (id === undefined || data.id === id)) tip.close();
  }
}

// show reports whether there is a tip now.
export async function show(owner: string, p: Pseudo): Promise<boolean> {
  if (permission() !== "granted") return false;
  // Of two tips with one tag the system shows the newer one.
  const title = p.title || p.account;
  const data: Data = { owner, id: p.id, page: location.href, link: p.link ?? "" };
  const options: NotificationOptions = { body: p.body ?? "", tag: p.tag ?? p.id, data };
  const w = await worker();
  if (w) {
    await w.showNotification(title, options);
    return true;
  }
  const tip = new Notification(title, options);
  tip.onclick = () => { window.focus(); tip.close(); };
  return true;
}
