// The notifications of this browser in IndexedDB, shared by the page and the service
// worker: the list on the page, and the IDs that were shown.
import type { Records, Registered } from "./client/registration";
import type { Item, Lock, Store } from "./client/shown";

// keep is how many items a device keeps. The server has at most 1,000 deliveries of
// a device unfinished: of older ones no copy can come.
const keep = 1000;

let database: Promise<IDBDatabase> | undefined;

function open(): Promise<IDBDatabase> {
  database ??= new Promise((resolve, reject) => {
    const r = indexedDB.open("heartline-terminal", 2);
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
      resolve(r.result);
    };
    r.onerror = () => reject(r.error);
    r.onblocked = () => reject(new Error("the store is in use by an older page: close it"));
  });
  database.catch(() => { database = undefined; }); // the next call tries again
  return database;
}

function result<T>(r: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    r.onsuccess = () => resolve(r.result);
    r.onerror = () => reject(r.error);
  });
}

function done(t: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    t.oncomplete = () => resolve();
    t.onabort = () => reject(t.error);
  });
}

const read = async (name: string) => (await open()).transaction(name).objectStore(name);
const write = async (name: string) => (await open()).transaction(name, "readwrite", { durability: "strict" });
const ofOwner = (owner: string) => IDBKeyRange.bound([owner], [owner, []]);

export const store: Store & Records & { forget(owner: string): Promise<void> } = {
  async get(owner, id) {
    return result((await read("items")).get([owner, id]));
  },

  async put(item) {
    const t = await write("items");
    const ended = done(t);
    const items = t.objectStore("items");
    items.put(item);
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

  // forget erases what a device has: its user has signed out.
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

// lock is held across the page and the worker. Without https there are no locks, and
// no worker either: the page is alone.
export const lock: Lock = <T>(name: string, fn: () => Promise<T>): Promise<T> =>
  navigator.locks ? (navigator.locks.request(name, fn) as Promise<T>) : fn();

export type { Item };
