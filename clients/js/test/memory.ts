// Stand-ins for the browser, for the unit tests.
import type { Manager, Records, Registered, Subscription } from "../src/core/registration.js";
import type { Item, ItemStore } from "../src/core/shown.js";
import type { Pseudo } from "../src/core/wire.js";

export class Memory implements ItemStore, Records {
  items = new Map<string, Item>();
  current: Registered | undefined;
  fail = false;

  async get(owner: string, id: string) { return this.items.get(owner + "|" + id); }
  async put(item: Item) {
    if (this.fail) throw new Error("the disk is full");
    this.items.set(item.owner + "|" + item.id, item);
  }
  async list(owner: string) { return [...this.items.values()].filter((i) => i.owner === owner).sort((a, b) => a.arrived - b.arrived); }
  async tagged(owner: string, tag: string) { return (await this.list(owner)).filter((i) => i.tag === tag); }
  async registered() { return this.current; }
  async setRegistered(r: Registered | undefined) { this.current = r; }
}

export const bytesOf = (key: string) => Uint8Array.from(Buffer.from(key, "base64url")).buffer;

// Browser is a push manager. hang: it never answers.
export class Browser implements Manager {
  hang = false;
  made = 0;
  current: (Subscription & { key: string }) | undefined;

  async getSubscription() { return this.current ?? null; }
  subscribe({ applicationServerKey: key }: { userVisibleOnly: boolean; applicationServerKey: string }): Promise<Subscription> {
    if (this.hang) return new Promise(() => undefined);
    if (this.current && this.current.key !== key) return Promise.reject(new Error("InvalidStateError"));
    const endpoint = `https://push.example/${++this.made}`;
    const s = {
      endpoint, key, options: { applicationServerKey: bytesOf(key) as ArrayBuffer },
      toJSON: () => ({ endpoint }),
      unsubscribe: async () => { this.current = undefined; return true; },
    };
    this.current = s;
    return Promise.resolve(s);
  }
}

export function pseudo(id: string, more: Partial<Pseudo> = {}): Pseudo {
  return { id, account: "anna", title: "Title of " + id, accepted_at: "2026-11-25T09:30:00.000Z", redelivery: false, pushed: false, has_message: false, ack: "received", ...more };
}
