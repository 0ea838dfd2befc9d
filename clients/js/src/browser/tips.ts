// Tips are the system's notifications of a page.
import type { News, TipData } from "./news.js";
import type { Manager } from "../core/registration.js";
import type { Pseudo } from "../core/wire.js";

export type Permission = "granted" | "denied" | "default" | "unavailable";

/** Whether the page may show tips. "unavailable": only https and localhost have them. */
export function permission(): Permission {
  return "Notification" in window && isSecureContext ? Notification.permission : "unavailable";
}

/** Asks the user. Call it right after a click, or a browser refuses. */
export async function askPermission(): Promise<Permission> {
  if (permission() !== "unavailable") await Notification.requestPermission();
  return permission();
}

// active returns a registration that has a worker.
async function active(r: ServiceWorkerRegistration): Promise<ServiceWorkerRegistration> {
  const next = r.installing ?? r.waiting;
  if (r.active || !next) return r;
  return new Promise((resolve, reject) => next.addEventListener("statechange", () => {
    if (r.active) resolve(r);
    else if (next.state === "redundant") reject(new Error("the service worker was not installed"));
  }));
}

export class Tips {
  readonly #register: (() => Promise<ServiceWorkerRegistration>) | undefined;
  readonly #loaded = location.href;
  #registration: Promise<ServiceWorkerRegistration> | undefined;
  readonly #own = new Map<string, Notification>(); // by tag: where there is no worker

  /**
   * Registers the service worker that shows the tips, where there may be one. onNews is
   * called for each message of the worker.
   */
  constructor(workerURL: string, onNews: (n: News) => void, options: RegistrationOptions = {}) {
    if (!isSecureContext || !("serviceWorker" in navigator)) return;
    this.#register = () => navigator.serviceWorker.register(workerURL, options).then(active);
    this.#registration = this.#register();
    this.#registration.catch((err) => console.warn("no service worker, tips come from the page:", err));
    navigator.serviceWorker.addEventListener("message", (e: MessageEvent<News>) => onNews(e.data));
    navigator.serviceWorker.startMessages();
  }

  /** undefined where there is no service worker. */
  async worker(): Promise<ServiceWorkerRegistration | undefined> {
    const r = await this.#registration?.catch(() => undefined);
    if (!r || r.active) return r;
    this.#registration = this.#register?.(); // the user has cleared the site's data, and the worker is gone
    return this.#registration?.catch(() => undefined);
  }

  /** For a Registrar; undefined where the browser takes no pushes. */
  async pushManager(): Promise<Manager | undefined> {
    return (await this.worker())?.pushManager;
  }

  /** Shows a tip, and reports whether there is one now. Of two tips with one tag the system shows the newer one. */
  async show(owner: string, p: Pseudo): Promise<boolean> {
    if (permission() !== "granted") return false;
    const title = p.title || p.account;
    const data: TipData = { owner, id: p.id, page: location.href, loaded: this.#loaded, link: p.link ?? "" };
    const options: NotificationOptions = { body: p.body ?? "", tag: p.tag ?? p.id, data };
    const w = await this.worker();
    if (w) {
      await w.showNotification(title, options);
      return true;
    }
    const tip = new Notification(title, options);
    tip.onclick = () => { window.focus(); tip.close(); };
    this.#own.set(tip.tag, tip); // in the place of the one that it replaces
    tip.onclose = () => { if (this.#own.get(tip.tag) === tip) this.#own.delete(tip.tag); };
    return true;
  }

  /** Takes tips off the screen: that of a notification, or all of a device. */
  async close(owner: string, id?: string): Promise<void> {
    const shown = (await (await this.worker())?.getNotifications()) ?? [];
    for (const tip of [...shown, ...this.#own.values()]) {
      const data: Partial<TipData> | null = tip.data;
      if (data?.owner === owner && (id === undefined || data.id === id)) tip.close();
    }
  }
}
