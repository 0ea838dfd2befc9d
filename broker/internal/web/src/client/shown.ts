// Which notifications this browser has shown. The page and the service worker share
// one store, so that an ID is shown once, whichever path brings it. It needs no DOM.
import type { Message, Pseudo } from "./wire";

// How says how a notification was shown. "tip": a system notification of the page.
// "push": a system notification of the service worker. "page": only in the list,
// because the app was in the foreground. "blocked": the browser allows no system
// notification. "replaced": not at all, a newer one with its tag was shown before.
export type How = "tip" | "push" | "page" | "blocked" | "replaced";

export interface Item {
  owner: string; // account and device
  id: string;
  arrived: number; // ms, of its first copy
  tag?: string; // of two items with one tag the later accepted one is on the screen
  accepted?: number; // ms
  pseudo?: Pseudo;
  shown?: How;
  message?: Message;
  owed?: "displayed" | "read"; // to be sent to the server at the next opportunity
  read?: boolean; // its user has opened it
  dismissed?: boolean; // taken off the screens
}

// Store keeps items. put returns when the item is on the disk: a PUBACK follows.
export interface Store {
  get(owner: string, id: string): Promise<Item | undefined>;
  put(item: Item): Promise<void>;
  tagged(owner: string, tag: string): Promise<Item[]>;
  list(owner: string): Promise<Item[]>; // oldest first
}

// Lock runs fn while no other page or worker of this browser runs one under the name.
export type Lock = <T>(name: string, fn: () => Promise<T>) => Promise<T>;

export interface Outcome {
  item: Item;
  first: boolean; // false: it had been shown before, or may not be shown any more
  newer?: Item; // the item with its tag that is to stay on the screen
}

export class Shown {
  readonly #store: Store;
  readonly #lock: Lock;

  constructor(store: Store, lock: Lock) {
    this.#store = store;
    this.#lock = lock;
  }

  // show calls put for an ID that was not shown before, and records how it was shown.
  // The record is written after it was shown: a crash in between shows it twice, under
  // one tag; the other order would lose it. If put fails, nothing is recorded.
  show(owner: string, p: Pseudo, put: () => Promise<How>): Promise<Outcome> {
    return this.#change(owner, p.id, async (item) => {
      const tag = p.tag ?? p.id;
      const accepted = Date.parse(p.accepted_at) || item.arrived;
      // Browsers do not keep the order of pushes.
      const newer = (await this.#store.tagged(owner, tag))
        .filter((other) => other.id !== p.id && other.shown && (other.accepted ?? 0) > accepted)
        .sort((a, b) => (b.accepted ?? 0) - (a.accepted ?? 0))[0];
      const outcome = (item: Item, first: boolean): Outcome => (newer ? { item, first: false, newer } : { item, first });
      if (item.shown && item.shown !== "push") return outcome(item, false);
      if (item.shown || item.dismissed) {
        // The channel's copy says more than the push did.
        const whole = { ...item, pseudo: { ...item.pseudo, ...p } };
        await this.#store.put(whole);
        return outcome(whole, false);
      }
      const shown = newer ? "replaced" : await put();
      const noted: Item = { ...item, tag, accepted, pseudo: p, shown };
      // Nobody has seen a notification that is only in the list of a hidden page.
      if (shown === "blocked" && p.ack === "displayed") noted.owed ??= "displayed";
      await this.#store.put(noted);
      return outcome(noted, true);
    });
  }

  // message records the full content. It returns undefined if that is there already.
  message(owner: string, m: Message): Promise<Item | undefined> {
    return this.#change(owner, m.id, async (item) => {
      if (item.message) return undefined;
      const whole = { ...item, message: m };
      await this.#store.put(whole);
      return whole;
    });
  }

  // read records that the user has opened a notification. It returns undefined if that
  // is on record already.
  read(owner: string, id: string): Promise<Item | undefined> {
    return this.#change(owner, id, async (item) => {
      if (item.read) return undefined;
      const opened: Item = { ...item, read: true, owed: "read" };
      await this.#store.put(opened);
      return opened;
    });
  }

  // dismiss records that a notification is off the screens. A push of it that comes
  // later is not shown.
  dismiss(owner: string, id: string): Promise<Item> {
    return this.#change(owner, id, async (item) => {
      const { owed: _, ...rest } = item;
      const gone: Item = { ...rest, dismissed: true };
      await this.#store.put(gone);
      return gone;
    });
  }

  // pay sends the acks that are owed. What cannot be sent stays owed.
  async pay(owner: string, looking: boolean, send: (id: string, status: "displayed" | "read") => Promise<void>): Promise<void> {
    for (const { id, owed } of await this.#store.list(owner)) {
      if (!owed || (owed === "displayed" && !looking)) continue;
      await send(id, owed);
      await this.#change(owner, id, async (item) => {
        if (item.owed !== owed) return; // "read" has taken the place of "displayed"
        const { owed: _, ...rest } = item;
        await this.#store.put(rest);
      });
    }
  }

  #change<T>(owner: string, id: string, fn: (item: Item) => Promise<T>): Promise<T> {
    // One name for all of an owner's items: two pushes with one tag can come at once.
    return this.#lock("heartline-shown " + owner, async () => fn(await this.#store.get(owner, id) ?? { owner, id, arrived: Date.now() }));
  }
}
