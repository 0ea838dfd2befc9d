// Tips are the system's notifications.
import type { Pseudo } from "./wire";

export type Permission = "granted" | "denied" | "default" | "unavailable";

export function permission(): Permission {
  // Only https and localhost have them.
  return "Notification" in window && isSecureContext ? Notification.permission : "unavailable";
}

let registration: Promise<ServiceWorkerRegistration> | undefined;

// prepare registers the service worker that shows the tips, where there may be one.
export function prepare(): void {
  if (permission() === "unavailable" || !("serviceWorker" in navigator)) return;
  registration = navigator.serviceWorker.register("sw.js").then(() => navigator.serviceWorker.ready);
  registration.catch((err) => console.warn("no service worker, tips come from the page:", err));
}

export async function ask(): Promise<void> {
  await Notification.requestPermission();
}

// dismiss takes the tip of a notification off the screen, if it is there.
export async function dismiss(id: string): Promise<void> {
  const worker = await registration?.catch(() => undefined);
  const tips = (await worker?.getNotifications()) ?? [];
  for (const tip of tips) if (tip.data?.id === id) tip.close();
}

// show reports whether there is a tip now.
export async function show(p: Pseudo): Promise<boolean> {
  if (permission() !== "granted") return false;
  // Of two tips with one tag the system shows the newer one.
  const title = p.title || p.account;
  const options: NotificationOptions = { body: p.body ?? "", tag: p.tag ?? p.id, data: { page: location.href, id: p.id } };
  const worker = await registration?.catch(() => undefined);
  if (worker) {
    await worker.showNotification(title, options);
    return true;
  }
  const tip = new Notification(title, options);
  tip.onclick = () => { window.focus(); tip.close(); };
  return true;
}
