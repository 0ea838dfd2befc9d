// The record of a browser in IndexedDB, shared by all its pages and the service worker.
import type { Registered } from "../core/registration.js";
import { keep, type Item, type Lock, type Store } from "../core/shown.js";

const result = <T>(r: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    r.onsuccess = () => resolve(r.result);
    r.onerror = () => reject(r.error);
  });

const done = (t: IDBTransaction): Promise<void> =>
  new Promise((resolve, reject) => {
    t.oncomplete = () => resolve();
    t.onabort = () => reject(t.error);
  });

const ofOwner = (owner: string) => IDBKeyRange.bound([owner], [owner, []]);

/** A store in the IndexedDB database with this name. Pages and worker pass the same name. */
export function indexedDBStore(name = "heartline"): Store {
  let database: Promise<IDBDatabase> | undefined;

  function open(): Promise<IDBDatabase> {
    database ??= new Promise((resolve, reject) => {
      const r = indexedDB.open(name, 2);
      r.onupgradeneeded = () => {
        const items = r.result.objectStoreNames.contains("items")
          ? r.transaction!.objectStore("items")
          : r.result.createObjectStore("items", { keyPath: ["owner", "id"] });
        if (!items.indexNames.contains("order")) items.createIndex("order", ["owner", "arrived"]);
        items.createIndex("tag", ["owner", "tag"]);
        r.result.createObjectStore("registered");
      };
      r.onsuccess = () => {
        // A newer page or worker may change the format.
        r.result.onversionchange = () => { r.result.close(); database = undefined; };
        // The browser closes it, too: its user has cleared the site's data.
        r.result.onclose = () => { database = undefined; };
        resolve(r.result);
      };
      r.onerror = () => reject(r.error);
      r.onblocked = () => reject(new Error("the store is in use by an older page: close it"));
    });
    database.catch(() => { database = undefined; }); // the next call tries again
    return database;
  }

  async function begin(...of: Parameters<IDBDatabase["transaction"]>): Promise<IDBTransaction> {
    try {
      return (await open()).transaction(...of);
    } catch (err) {
      if (!(err instanceof DOMException && err.name === "InvalidStateError")) throw err;
      database = undefined; // it is closed, and nobody has told us
      return (await open()).transaction(...of);
    }
  }

  const read = async (of: string) => (await begin(of)).objectStore(of);
  const write = (of: string) => begin(of, "readwrite", { durability: "strict" });

  return {
    async get(owner, id) {
      return result((await read("items")).get([owner, id]));
    },

    async put(item) {
      const t = await write("items");
      const ended = done(t);
      ended.catch(() => undefined); // an earlier error may be thrown first
      const items = t.objectStore("items");
      const [known, last] = await Promise.all([
        result(items.get([item.owner, item.id]) as IDBRequest<Item | undefined>),
        result(items.index("order").openKeyCursor(ofOwner(item.owner), "prev")),
      ]);
      // A clock that was set back must not make the newest item the oldest, which goes first.
      const newest = (last?.key as [string, number] | undefined)?.[1] ?? 0;
      items.put({ ...item, arrived: known?.arrived ?? Math.max(item.arrived, newest + 1) });
      const count = await result(items.count(ofOwner(item.owner)));
      if (count > keep) {
        let excess = count - keep;
        const cursor = items.index("order").openCursor(ofOwner(item.owner));
        cursor.onsuccess = () => {
          if (cursor.result && excess-- > 0) {
            cursor.result.delete();
            cursor.result.continue();
          }
        };
      }
      await ended;
    },

    async tagged(owner, tag) {
      return result((await read("items")).index("tag").getAll([owner, tag]));
    },

    async list(owner) {
      return result((await read("items")).index("order").getAll(ofOwner(owner)));
    },

    async forget(owner) {
      const t = await write("items");
      t.objectStore("items").delete(ofOwner(owner));
      await done(t);
    },

    async registered(): Promise<Registered | undefined> {
      return result((await read("registered")).get("current"));
    },

    async setRegistered(r) {
      const t = await write("registered");
      if (r) t.objectStore("registered").put(r, "current");
      else t.objectStore("registered").delete("current");
      await done(t);
    },
  };
}

/**
 * Held across all pages and the worker of an origin. Without https there are no locks, and
 * no worker either: the page is alone.
 */
export const browserLock: Lock = <T>(name: string, fn: () => Promise<T>): Promise<T> =>
  navigator.locks ? (navigator.locks.request(name, fn) as Promise<T>) : fn();
