// The record of the notifications that were shown. A page and its service worker, and all
// tabs of a browser, share one store, so that an ID is shown once, whichever path brings it.
import { RefusedError } from "./link.js";
import { platform } from "./platform.js";
import type { Registered } from "./registration.js";
import type { Message, Pseudo } from "./wire.js";

/**
 * How a notification was shown. "tip": a notification of the system. "push": a
 * notification of the system, for a push. "page": in the app, which was in the foreground.
 * "blocked": nobody could see it. "replaced": not at all, because a newer one with its tag
 * was shown before.
 */
export type How = "tip" | "push" | "page" | "blocked" | "replaced";

export interface Item {
  /** Account and device. */
  owner: string;
  id: string;
  /** Arrival of the first copy, in ms since 1970. */
  arrived: number;
  /** Of two items with one tag the later accepted one is on the screen. */
  tag?: string;
  /** Acceptance, in ms since 1970. */
  accepted?: number;
  pseudo?: Pseudo;
  shown?: How;
  /** The message was handed over. */
  taken?: boolean;
  /** The message, where the record keeps messages. */
  message?: Message;
  /** An ack to be sent at the next opportunity. */
  owed?: "displayed" | "read";
  /** Its user has opened it. */
  read?: boolean;
  /** It was taken off the screens. */
  dismissed?: boolean;
}

/** keep is how many items of a device a store keeps. The server has at most 1,000
 * unfinished deliveries of a device: no copy of older ones can come. */
export const keep = 2000;

/** Keeps items. put resolves when the item is on the disk: a PUBACK follows. */
export interface ItemStore {
  get(owner: string, id: string): Promise<Item | undefined>;
  put(item: Item): Promise<void>;
  tagged(owner: string, tag: string): Promise<Item[]>;
  /** Oldest first. */
  list(owner: string): Promise<Item[]>;
}

/** The durable store of a device, or of all devices of a browser. */
export interface Store extends ItemStore {
  /** The device that takes Web Pushes. */
  registered(): Promise<Registered | undefined>;
  setRegistered(r: Registered | undefined): Promise<void>;
  /** Erases the items of a device: its user has signed out. */
  forget(owner: string): Promise<void>;
}

/** Runs fn while nobody else who shares the store runs one under the name. */
export type Lock = <T>(name: string, fn: () => Promise<T>) => Promise<T>;

export interface Outcome {
  item: Item;
  /** false: it had been shown before, or may not be shown any more. */
  first: boolean;
  /** The item with its tag that stays on the screen. */
  newer?: Item;
}

// forGood are the reason codes with which the server refuses the same ack each time. 0x87: it
// does not know the notification (any more), or another device got it. 0x99: invalid payload.
const forGood = [0x87, 0x99];

// One name for all of an owner's items: two pushes with one tag can come at once.
const lockOf = (owner: string) => "heartline-shown " + owner;
const keyOf = (owner: string, id: string) => `${owner}\n${id}`;

export class Shown {
  readonly #store: ItemStore;
  readonly #lock: Lock;
  readonly #messages: boolean;
  // What was shown or taken and could not be recorded: the next copy records it, and is not
  // shown again. The oldest go first.
  readonly #unrecorded = new Map<string, Item>();

  /** messages: the record keeps the messages, too. */
  constructor(store: ItemStore, lock: Lock, messages = false) {
    this.#store = store;
    this.#lock = lock;
    this.#messages = messages;
  }

  /**
   * Calls put for an ID that was not shown before, and records how it was shown. The
   * record follows the tip: a crash in between shows it twice, under one tag; the other
   * order would lose it. If put fails, nothing is recorded. If the record fails, so does the
   * call, and the calls for further copies fail without put until the store works again.
   */
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
        await this.#record(whole);
        return outcome(whole, false);
      }
      const shown = newer ? "replaced" : await put();
      const noted: Item = { ...item, tag, accepted, pseudo: p, shown };
      // Nobody has seen a notification that is only in the list of a hidden page.
      if (shown === "blocked" && p.ack === "displayed") noted.owed ??= "displayed";
      await this.#record(noted);
      return outcome(noted, true);
    });
  }

  /** Calls put for a message that was not taken before, and records it. Returns undefined if it was. */
  message(owner: string, m: Message, put: () => Promise<void> = async () => undefined): Promise<Item | undefined> {
    return this.#change(owner, m.id, async (item) => {
      if (item.taken || item.message) return undefined;
      await put();
      const whole: Item = { ...item, taken: true };
      if (this.#messages) whole.message = m;
      await this.#record(whole);
      return whole;
    });
  }

  /** Records that the user has opened a notification. Returns undefined if that is on record. */
  read(owner: string, id: string): Promise<Item | undefined> {
    return this.#change(owner, id, async (item) => {
      if (item.read) return undefined;
      const opened: Item = { ...item, read: true, owed: "read" };
      await this.#record(opened);
      return opened;
    });
  }

  /** Records that a notification is off the screens. A copy that comes later is not shown. */
  dismiss(owner: string, id: string, put: () => Promise<void> = async () => undefined): Promise<Item> {
    return this.#change(owner, id, async (item) => {
      await put();
      const { owed: _, ...rest } = item;
      const gone: Item = { ...rest, dismissed: true };
      await this.#record(gone);
      return gone;
    });
  }

  /**
   * Sends the acks that are owed. An ack that cannot be sent stays owed, and so does one that
   * the server refuses for now; it does not hold up the others. One that the server refuses
   * for good is given up.
   */
  async pay(owner: string, looking: boolean, send: (id: string, status: "displayed" | "read") => Promise<void>): Promise<void> {
    for (const { id, owed } of await this.#store.list(owner)) {
      if (!owed || (owed === "displayed" && !looking)) continue;
      try {
        await send(id, owed);
      } catch (err) {
        if (!(err instanceof RefusedError)) throw err;
        platform.console.debug(`the ack "${owed}" of ${id} is refused:`, err.message);
        if (!forGood.includes(err.code)) continue;
      }
      await this.#change(owner, id, async (item) => {
        if (item.owed !== owed) return; // "read" has taken the place of "displayed"
        const { owed: _, ...rest } = item;
        await this.#record(rest);
      });
    }
  }

  /** Calls erase, which erases the items of a device, when none of them is being shown any more. */
  forget(owner: string, erase: () => Promise<void>): Promise<void> {
    return this.#lock(lockOf(owner), async () => {
      for (const [key, item] of this.#unrecorded) if (item.owner === owner) this.#unrecorded.delete(key);
      await erase();
    });
  }

  #change<T>(owner: string, id: string, fn: (item: Item) => Promise<T>): Promise<T> {
    return this.#lock(lockOf(owner), async () => {
      const unrecorded = this.#unrecorded.get(keyOf(owner, id));
      // The worker or another page may have recorded something else of it meanwhile.
      if (unrecorded) await this.#record({ ...await this.#store.get(owner, id), ...unrecorded });
      return fn(await this.#store.get(owner, id) ?? { owner, id, arrived: Date.now() });
    });
  }

  async #record(item: Item): Promise<void> {
    const key = keyOf(item.owner, item.id);
    try {
      await this.#store.put(item);
      this.#unrecorded.delete(key);
    } catch (err) {
      this.#unrecorded.set(key, item);
      for (const oldest of this.#unrecorded.keys()) {
        if (this.#unrecorded.size <= keep) break;
        this.#unrecorded.delete(oldest);
      }
      throw err;
    }
  }
}
