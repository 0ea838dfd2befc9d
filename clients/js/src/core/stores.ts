// Stores that need no platform: in memory, and over a key-value store such as React
// Native's AsyncStorage.
import { platform } from "./platform.js";
import type { Registered } from "./registration.js";
import { keep, type Item, type Lock, type Store } from "./shown.js";

/** Runs one function at a time under a name, within this program. */
export function newLock(): Lock {
  const last = new Map<string, Promise<unknown>>();
  return <T>(name: string, fn: () => Promise<T>): Promise<T> => {
    const next = (last.get(name) ?? Promise.resolve()).then(fn, fn);
    last.set(name, next);
    const done = () => { if (last.get(name) === next) last.delete(name); };
    next.then(done, done);
    return next;
  };
}

// Memory holds items in the order of their arrival, at most keep of an owner. It returns
// the items that it drops.
export class Memory {
  readonly #owners = new Map<string, Map<string, Item>>();
  registered: Registered | undefined;

  get(owner: string, id: string): Item | undefined {
    return this.#owners.get(owner)?.get(id);
  }

  put(item: Item): Item[] {
    let items = this.#owners.get(item.owner);
    if (!items) this.#owners.set(item.owner, (items = new Map()));
    items.set(item.id, item); // in its old place, if it has one
    const dropped: Item[] = [];
    for (const [id, oldest] of items) {
      if (items.size <= keep) break;
      items.delete(id);
      dropped.push(oldest);
    }
    return dropped;
  }

  drop(item: Item): void {
    this.#owners.get(item.owner)?.delete(item.id);
  }

  list(owner: string): Item[] {
    return [...this.#owners.get(owner)?.values() ?? []];
  }

  tagged(owner: string, tag: string): Item[] {
    return this.list(owner).filter((item) => item.tag === tag);
  }

  forget(owner: string): void {
    this.#owners.delete(owner);
  }

  all(): Item[] {
    return [...this.#owners.keys()].flatMap((owner) => this.list(owner));
  }
}

/** A store in memory: after a restart every ID is new. For tests and for trying out. */
export function memoryStore(): Store {
  const m = new Memory();
  return {
    get: async (owner, id) => m.get(owner, id),
    put: async (item) => void m.put(item),
    tagged: async (owner, tag) => m.tagged(owner, tag),
    list: async (owner) => m.list(owner),
    registered: async () => m.registered,
    setRegistered: async (r) => void (m.registered = r),
    forget: async (owner) => m.forget(owner),
  };
}

/** The methods of React Native's AsyncStorage that a store uses. MMKV and others have adapters. */
export interface KeyValue {
  getItem(key: string): Promise<string | null>;
  setItem(key: string, value: string): Promise<void>;
  removeItem(key: string): Promise<void>;
}

// noRoom reports whether a write has failed because there is no room for it: AsyncStorage
// takes 6 MB on Android ("database or disk is full"), localStorage 5 MB ("QuotaExceededError").
function noRoom(err: unknown): boolean {
  const { name = "", message = String(err) } = (err ?? {}) as Partial<Error>;
  return /\b(full|space)\b|quota/i.test(`${name} ${message}`);
}

/**
 * A store over a key-value store: an entry for each item, and one for their order. One
 * program at a time uses it. If the key-value store is full, the oldest quarter of the
 * items makes room.
 */
export function keyValueStore(kv: KeyValue, prefix = "heartline"): Store {
  const memory = new Memory();
  const loaded = new Map<string, Promise<void>>();
  const once = newLock();
  const indexOf = (owner: string) => `${prefix}/${owner}`;
  const keyOf = (owner: string, id: string) => `${prefix}/${owner}/${id}`;
  const registeredKey = `${prefix}-registered`;
  const stale = new Map<string, string>(); // entries that no index names any more, and their owners

  async function removeStale(owner: string): Promise<void> {
    for (const [key, of] of stale) {
      if (of !== owner) continue;
      await kv.removeItem(key);
      stale.delete(key);
    }
  }

  // An entry that cannot be parsed counts as missing: each notification would be refused for it.
  async function read<T>(key: string): Promise<T | undefined> {
    const text = await kv.getItem(key);
    try {
      return text === null ? undefined : (JSON.parse(text) as T);
    } catch (err) {
      platform.console.error(`the entry ${key} is damaged, and left out:`, err);
      return undefined;
    }
  }

  async function readAll(owner: string): Promise<void> {
    const ids = await read<unknown>(indexOf(owner));
    for (const id of Array.isArray(ids) ? ids as string[] : []) {
      const item = await read<Item>(keyOf(owner, id));
      if (item) memory.put(item); // otherwise it was never written
    }
  }

  function load(owner: string): Promise<void> {
    let p = loaded.get(owner);
    if (!p) {
      p = readAll(owner);
      loaded.set(owner, p);
      p.catch(() => loaded.delete(owner)); // the next call tries again
    }
    return p;
  }

  async function write(item: Item): Promise<void> {
    const fresh = memory.get(item.owner, item.id) === undefined;
    // The index first: an entry that no index names would stay for ever.
    if (fresh) {
      const ids = [...memory.list(item.owner).map((i) => i.id), item.id].slice(-keep);
      await kv.setItem(indexOf(item.owner), JSON.stringify(ids));
    }
    await kv.setItem(keyOf(item.owner, item.id), JSON.stringify(item));
  }

  // makeRoom removes the oldest items. Their IDs stay in the index until the next write.
  async function makeRoom(owner: string): Promise<void> {
    const all = memory.list(owner);
    for (const old of all.slice(0, Math.ceil(all.length / 4))) {
      await kv.removeItem(keyOf(owner, old.id));
      memory.drop(old);
    }
  }

  return {
    async get(owner, id) {
      await load(owner);
      return memory.get(owner, id);
    },
    put(item) {
      return once(item.owner, async () => {
        await load(item.owner);
        await write(item).catch(async (err) => {
          if (!noRoom(err)) throw err;
          await makeRoom(item.owner).catch(() => { throw err; });
          await write(item);
        });
        const key = keyOf(item.owner, item.id);
        stale.delete(key);
        memory.put(item).forEach((old) => stale.set(keyOf(old.owner, old.id), old.owner));
        await removeStale(item.owner).catch(() => undefined); // the item is kept: the next put tries again
      });
    },
    async tagged(owner, tag) {
      await load(owner);
      return memory.tagged(owner, tag);
    },
    async list(owner) {
      await load(owner);
      return memory.list(owner);
    },
    async registered() {
      return read<Registered>(registeredKey);
    },
    async setRegistered(r) {
      if (r) await kv.setItem(registeredKey, JSON.stringify(r));
      else await kv.removeItem(registeredKey);
    },
    forget(owner) {
      return once(owner, async () => {
        await load(owner);
        await removeStale(owner);
        for (const item of memory.list(owner)) await kv.removeItem(keyOf(owner, item.id));
        await kv.removeItem(indexOf(owner));
        memory.forget(owner); // last: a call after one that failed finds all of them
      });
    },
  };
}
