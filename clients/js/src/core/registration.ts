// The browser's push subscription, and which device it belongs to. A browser has one
// subscription for a service worker: it belongs to the device that asked for it last.
// The interfaces are the parts of the Push API that it uses.
import { platform } from "./platform.js";
import type { PushToken } from "./wire.js";

export interface Subscription {
  readonly endpoint: string;
  readonly options: { readonly applicationServerKey: ArrayBuffer | null };
  toJSON(): unknown;
  unsubscribe(): Promise<boolean>;
}

export interface Manager {
  getSubscription(): Promise<Subscription | null>;
  subscribe(options: { userVisibleOnly: boolean; applicationServerKey: string }): Promise<Subscription>;
}

// Registered is on record while a device wants pushes. The worker reads it, too.
export interface Registered {
  owner: string;
  account: string;
  device: string;
  key: string; // the server's public key, base64url
  endpoint: string;
}

export interface Records {
  registered(): Promise<Registered | undefined>;
  setRegistered(r: Registered | undefined): Promise<void>;
}

// patience is how long subscribe waits for the browser: some never answer where they
// cannot reach their push service.
export const patience = 10_000; // ms

export function keyOf(s: Subscription): string {
  const key = s.options.applicationServerKey;
  if (!key) return "";
  const bytes = String.fromCharCode(...new Uint8Array(key));
  return platform.btoa!(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

// subscribe returns the subscription made with key. One made with another key is ended
// first: the browser keeps it otherwise, and the push service refuses our pushes to it.
export async function subscribe(manager: Manager, key: string, wait = patience): Promise<Subscription> {
  const old = await manager.getSubscription();
  if (old && keyOf(old) === key) return old;
  await old?.unsubscribe();
  let timer: unknown;
  const late = new Promise<never>((_, reject) => {
    timer = platform.setTimeout(() => reject(new Error(`the browser's push service did not answer within ${wait / 1000} s`)), wait);
  });
  try {
    return await Promise.race([manager.subscribe({ userVisibleOnly: true, applicationServerKey: key }), late]);
  } finally {
    platform.clearTimeout(timer);
  }
}

// Registrar keeps the server's registration in step with the browser's subscription.
export class Registrar {
  readonly #manager: Manager;
  readonly #records: Records;
  readonly #wait: number;

  constructor(manager: Manager, records: Records, wait = patience) {
    this.#manager = manager;
    this.#records = records;
    this.#wait = wait;
  }

  // enable subscribes for a device and registers it with tell.
  async enable(who: Pick<Registered, "owner" | "account" | "device" | "key">, tell: (t: PushToken) => Promise<void>): Promise<void> {
    const s = await subscribe(this.#manager, who.key, this.#wait);
    // On record before the server knows: the worker shows pushes for the device from
    // now on, and a page that dies here registers at its next connection.
    await this.#records.setRegistered({ ...who, endpoint: s.endpoint });
    await tell({ webpush: s.toJSON() });
  }

  // renew registers the device again if it is the one that wants pushes. It is for each
  // connection, and for a worker that has changed the subscription. A subscription that
  // the browser has dropped, or that was made with a key the server no longer has, is
  // replaced. It reports whether the device has one.
  async renew(owner: string, key: string, tell: (t: PushToken) => Promise<void>): Promise<boolean> {
    const r = await this.#records.registered();
    if (r?.owner !== owner) return false;
    const s = await this.#subscribeAgain(r, key);
    if (s) await tell({ webpush: s.toJSON() });
    return s !== undefined;
  }

  // #subscribeAgain subscribes for the device on record. The browser may take its time: if the
  // pushes are stopped meanwhile, or are another device's now, it returns undefined.
  async #subscribeAgain(r: Registered, key: string): Promise<Subscription | undefined> {
    const s = await subscribe(this.#manager, key, this.#wait);
    const now = await this.#records.registered();
    if (now?.owner !== r.owner) {
      if (!now) await s.unsubscribe();
      return undefined;
    }
    await this.#records.setRegistered({ ...r, key, endpoint: s.endpoint });
    return s;
  }

  // disable ends the subscription. If tell fails, the server learns it from the push
  // service's 410.
  async disable(tell: (t: PushToken) => Promise<void>): Promise<void> {
    await this.#records.setRegistered(undefined);
    const s = await this.#manager.getSubscription();
    await tell({ webpush: null }).catch(() => undefined);
    await s?.unsubscribe();
  }

  // changed is for the worker's pushsubscriptionchange: it subscribes again. A page has
  // to register the new subscription, for a worker has no connection.
  async changed(): Promise<Registered | undefined> {
    const r = await this.#records.registered();
    if (!r) return undefined;
    const s = await this.#subscribeAgain(r, r.key);
    return s && { ...r, endpoint: s.endpoint };
  }
}
