// What was shown, in IndexedDB: it is the list on the page, and what keeps an ID
// from being shown twice, across reloads.
import type { Message, Pseudo } from "./wire";

// How a notification was shown. "page": in the list alone, because the app was in
// the foreground. "blocked": there was to be a tip, and the browser does not allow one.
export type Shown = "tip" | "page" | "blocked";

export interface Item {
  owner: string; // account and device
  id: string;
  arrived: number; // when the first of the two came, ms
  pseudo?: Pseudo;
  shown?: Shown;
  message?: Message;
  messageArrived?: number;
  owed?: boolean; // "displayed" is to be said once the page has been looked at
}

// keep is how many items a device keeps. The server has at most 1,000 deliveries of
// a device unfinished: of older ones no copy can come.
const keep = 1000;

let database: Promise<IDBDatabase> | undefined;

function open(): Promise<IDBDatabase> {
  database ??= new Promise((resolve, reject) => {
    const r = indexedDB.open("heartline-terminal", 1);
    r.onupgradeneeded = () => {
      r.result.createObjectStore("items", { keyPath: ["owner", "id"] }).createIndex("order", ["owner", "arrived"]);
    };
    r.onsuccess = () => resolve(r.result);
    r.onerror = () => reject(r.error);
    r.onblocked = () => reject(new Error("the store is in use by an older page"));
  });
  database.catch(() => { database = undefined; }); // tried again the next time
  return database;
}

function result<T>(r: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    r.onsuccess = () => resolve(r.result);
    r.onerror = () => reject(r.error);
  });
}

const ofOwner = (owner: string) => IDBKeyRange.bound([owner], [owner, []]);

export async function get(owner: string, id: string): Promise<Item | undefined> {
  return result((await open()).transaction("items").objectStore("items").get([owner, id]));
}

// put returns when the item is stored, and not before: an acknowledgement follows.
export async function put(item: Item): Promise<void> {
  const t = (await open()).transaction("items", "readwrite", { durability: "strict" });
  const done = new Promise<void>((resolve, reject) => {
    t.oncomplete = () => resolve();
    t.onabort = () => reject(t.error);
  });
  const items = t.objectStore("items");
  items.put(item);
  const count = await result(items.count(IDBKeyRange.bound([item.owner], [item.owner, []])));
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
  await done;
}

// list is what a device has, oldest first.
export async function list(owner: string): Promise<Item[]> {
  return result((await open()).transaction("items").objectStore("items").index("order").getAll(ofOwner(owner)));
}
