/** The service worker: it shows pushes, and records them where the pages look. */
import { readPush, type Proposed } from "../core/push.js";
import { Registrar, type Registered } from "../core/registration.js";
import { Shown, type Item, type Store } from "../core/shown.js";
import { webLink } from "./links.js";
import type { News, TipData } from "./news.js";
import { findPage } from "./pages.js";
import { browserLock } from "./store.js";

export { indexedDBStore } from "./store.js";

export interface WorkerOptions {
  /** The store of the pages. */
  store: Store;
  /** The page that a tip opens; the worker's scope unless given. */
  page?(scope: string, device: Registered | undefined): string;
}

// What a browser has read of a declarative push message.
type Declared = Omit<Proposed, "link"> & { navigate?: string };

/** Adds the listeners that a service worker needs to show pushes and to open tips. Call it in the worker's first turn. */
export function servePushes(worker: ServiceWorkerGlobalScope, options: WorkerOptions): void {
  const { store } = options;
  const shown = new Shown(store, browserLock);

  worker.addEventListener("push", (e) => {
    e.waitUntil(onPush(e.data?.text(), proposedBy((e as PushEvent & { notification?: Declared | null }).notification)));
  });

  // The server names the root where a notification has no link.
  function proposedBy(n: Declared | null | undefined): Proposed | undefined {
    if (!n) return undefined;
    const { title, body, tag, data, navigate = "" } = n;
    return { title, body, tag, data, link: navigate === new URL("/", worker.registration.scope).href ? "" : navigate };
  }

  async function onPush(data: string | undefined, proposed: Proposed | undefined): Promise<void> {
    const push = readPush(data, proposed);
    const device = await store.registered().catch((err) => { console.error("the device of a push:", err); return undefined; });
    const owner = device?.owner ?? "";
    const put = async () => {
      await worker.registration.showNotification(push.pseudo.title ?? "", { ...push.options, data: tipData(device, push.pseudo.id, push.pseudo.link) });
      return "push" as const;
    };
    if (push.dismissal) { // only to browsers that allow a push that shows nothing
      const { id } = push.dismissal;
      await shown.dismiss(owner, id, async () => {
        for (const tip of await worker.registration.getNotifications()) {
          const of: Partial<TipData> | null = tip.data;
          if (of?.owner === owner && of.id === id) tip.close();
        }
      });
      await tell({ kind: "shown", owner, id });
      if (push.badge !== undefined) await setBadge(push.badge);
      return;
    }
    if (!push.pseudo.id) { // of another sender
      await put();
      return;
    }
    try {
      const { item, first, newer } = await shown.show(owner, push.pseudo, put);
      // Every push must show something: a page that shows nothing loses its subscription.
      if (!first) await showAgain(device, newer ?? item);
      await tell({ kind: "shown", owner, id: item.id });
    } catch (err) {
      console.error("a push is shown without being recorded:", err);
      await put();
    }
    if (push.badge !== undefined) await setBadge(push.badge);
  }

  // showAgain shows a tip once more, under its tag and without a sound. If it was no
  // longer on the screen, it is closed at once: its user has seen it.
  async function showAgain(device: Registered | undefined, item: Item): Promise<void> {
    const p = item.pseudo;
    const tag = item.tag ?? item.id;
    const there = (await worker.registration.getNotifications({ tag })).length > 0;
    await worker.registration.showNotification(p?.title || p?.account || "Notification", {
      body: p?.body ?? "", tag, silent: true, data: tipData(device, item.id, p?.link),
    });
    if (there) return;
    for (const tip of await worker.registration.getNotifications({ tag })) tip.close();
  }

  function tipData(device: Registered | undefined, id: string, link: string | undefined): TipData {
    const scope = worker.registration.scope;
    return { owner: device?.owner ?? "", id, page: options.page?.(scope, device) ?? scope, link: link ?? "" };
  }

  async function setBadge(n: number): Promise<void> {
    try {
      await (n > 0 ? navigator.setAppBadge?.(n) : navigator.clearAppBadge?.());
    } catch (err) {
      console.debug("no badge:", err); // of an app that is not installed
    }
  }

  async function tell(news: News): Promise<void> {
    for (const client of await worker.clients.matchAll({ type: "window", includeUncontrolled: true })) client.postMessage(news);
  }

  // A tip that is opened brings its page to the front, and with it the app into the
  // foreground: the message follows, and the other devices of the account take the
  // notification off their screens.
  worker.addEventListener("notificationclick", (e) => {
    const tip = e.notification.data as Partial<TipData> | null;
    if (typeof tip?.owner !== "string" || typeof tip.id !== "string" || typeof tip.page !== "string") return; // the app's own
    e.notification.close();
    e.waitUntil(onOpen(tip as TipData));
  });

  async function onOpen(tip: TipData): Promise<void> {
    const { owner, id } = tip;
    // First: a browser lets a worker open a page only right after the click.
    const front = bringToFront(tip).catch((err) => console.warn("the page stays where it is:", err));
    if (id) { // otherwise a push of another sender
      await shown.read(owner, id); // the page sends it, now or at its next connection
      await tell({ kind: "opened", owner, id });
    }
    await front;
  }

  async function bringToFront(tip: TipData): Promise<void> {
    const link = webLink(tip.link);
    if (link) {
      await worker.clients.openWindow(link);
      return;
    }
    // All pages of the origin, also those that are no device, such as the dashboard.
    const page = findPage(await worker.clients.matchAll({ type: "window", includeUncontrolled: true }), tip);
    await (page ? page.focus() : worker.clients.openWindow(tip.page));
  }

  // The browser has ended or replaced the subscription.
  worker.addEventListener("pushsubscriptionchange", (e) => (e as ExtendableEvent).waitUntil(onChange()));

  async function onChange(): Promise<void> {
    const device = await new Registrar(worker.registration.pushManager, store).changed();
    if (device) await tell({ kind: "subscribed", owner: device.owner });
  }
}
