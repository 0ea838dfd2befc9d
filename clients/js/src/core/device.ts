// A device: the connection, the record of the notifications that were shown, and the acks.
import { Link, NotConnectedError, RefusedError, type MqttConnect, type Publication, type QoS, type Status, type Will } from "./link.js";
import { platform, plainTimers, type Timers } from "./platform.js";
import { Shown, type How, type Item, type Lock, type Store } from "./shown.js";
import { memoryStore, newLock } from "./stores.js";
import type { AppState, Dismissal, Message, Pseudo, PushToken } from "./wire.js";

export interface Options {
  /** wss://host/mqtt; in Node.js also mqtts://host:8883. */
  url: string;
  account: string;
  /**
   * The device ID: the account and a random part that the installation keeps, such as
   * alice-7f3a. 1 to 128 bytes without / + # and control characters.
   */
  device: string;
  /** A function is called at each connection: return a fresh JWT. */
  password?: string | (() => string | Promise<string>);
  /** mqtt.topic_prefix of the server; "heartline" unless given. */
  prefix?: string;
  /** Seconds; 30 unless given. */
  keepalive?: number;
  /** The app's state at the start; "foreground" unless given. setApp changes it. */
  app?: AppState;
  /** Where the shown IDs are kept. In memory unless given: after a restart they are new. */
  store?: Store;
  /** For a store that several pages share. */
  lock?: Lock;
  timers?: Timers;
  /** The record keeps the messages, too: for an app that lists them. */
  keepMessages?: boolean;

  /**
   * Shows a notification, once for each ID. Return "blocked" if nobody could see it: then
   * it is reported as displayed when the app comes to the foreground. A rejection refuses
   * this copy, and the server goes another way. Resolve within the server's ack window (3 s).
   */
  show(p: Pseudo, app: AppState): How | void | Promise<How | void>;
  /** Takes the full content, once for each ID, in the foreground. */
  message?(m: Message): void | Promise<void>;
  /** Takes a notification off the screen. */
  dismiss?(d: Dismissal): void | Promise<void>;
  /** The record of a notification has changed. */
  changed?(item: Item): void;
  status?(s: Status): void;

  /** Ordinary topics to subscribe to at each connection, with their QoS. */
  subscribe?: Record<string, QoS>;
  /** Takes a publish on an ordinary topic. */
  receive?(p: Publication): void;
  will?: Will;
}

/** owner is the name of a device in a store. */
export const ownerOf = (account: string, device: string): string => `${account}/${device}`;

/**
 * Says what is wrong with an account (what is "account") or a device ID; "" if nothing is. A
 * device ID is a level of a topic; an account may be a telephone number or an address.
 */
export function badName(what: string, name: string): string {
  if (name === "") return `The ${what} is empty.`;
  if (utf8Length(name) > 128) return `The ${what} is longer than 128 bytes.`;
  if (/[\u0000-\u001f\u007f-\u009f]/.test(name)) return `The ${what} may not hold control characters.`;
  if (what === "account") return name === "." || name === ".." ? `The account may not be "${name}".` : "";
  return /[/+#]/.test(name) ? `The ${what} may not hold /, + or #.` : "";
}

// React Native has no TextEncoder before 0.74.
function utf8Length(text: string): number {
  let n = 0;
  for (const char of text) {
    const point = char.codePointAt(0) ?? 0;
    n += point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
  }
  return n;
}

interface Pending {
  token: PushToken;
  resolve(): void;
  reject(err: Error): void;
}

export class Device {
  /** Its name in the store. */
  readonly owner: string;
  readonly store: Store;
  readonly #o: Options;
  readonly #shown: Shown;
  readonly #link: Link;
  readonly #pending = new Map<string, Pending>();
  #app: AppState;
  #status: Status = { kind: "connecting" };

  constructor(connect: MqttConnect, o: Options) {
    const problem = badName("device ID", o.device);
    if (problem) throw new TypeError(problem);
    this.#o = o;
    this.owner = ownerOf(o.account, o.device);
    this.store = o.store ?? memoryStore();
    this.#shown = new Shown(this.store, o.lock ?? newLock(), o.keepMessages);
    this.#app = o.app ?? "foreground";
    this.#link = new Link({
      connect,
      url: o.url,
      prefix: o.prefix ?? "heartline",
      account: o.account,
      device: o.device,
      ...(o.password === undefined ? {} : { password: o.password }),
      keepalive: o.keepalive ?? 30,
      timers: o.timers ?? plainTimers(),
      subscribe: o.subscribe ?? {},
      ...(o.will ? { will: o.will } : {}),
      show: (p) => this.#show(p),
      message: (m) => this.#message(m),
      dismiss: (d) => this.#dismiss(d),
      receive: (p) => o.receive?.(p),
      status: (s) => this.#onStatus(s),
    }, this.#app);
  }

  get status(): Status {
    return this.#status;
  }

  get app(): AppState {
    return this.#app;
  }

  /** Tells the server at once, or at the next connection. Coming to the foreground also reconnects at once. */
  setApp(app: AppState): void {
    if (app === this.#app) return;
    this.#app = app;
    this.#link.setApp(app);
    if (app === "foreground") {
      this.retryNow();
      void this.pay();
    }
  }

  /** Its user has opened a notification: the account's other devices take it off their screens. Without a connection it is sent at the next. */
  async read(id: string): Promise<void> {
    const item = await this.#shown.read(this.owner, id);
    if (item) this.#o.changed?.(item);
    await this.pay();
  }

  /**
   * Gives the server a push registration, or removes those of one server. Resolves when
   * the server has it: without a connection, after the next one. Rejects if the server
   * refuses it, or if the device ends. Call it at each start of the app and whenever the
   * system has a new token. A later token for the same server and kind replaces an
   * earlier one that was not sent yet, and a removal replaces all of its server.
   */
  register(token: PushToken): Promise<void> {
    const key = slot(token);
    for (const [earlier, p] of this.#pending) {
      if (earlier !== key && !(removesAll(token) && earlier.startsWith(serverOf(token) + " "))) continue;
      this.#pending.delete(earlier); // the later one is sent in its own place
      p.reject(new Error("replaced by a later registration"));
    }
    return new Promise((resolve, reject) => {
      this.#pending.set(key, { token, resolve, reject });
      if (this.#link.ended) this.#drop();
      else if (this.#link.up) this.#registerPending();
    });
  }

  /** Publishes on an ordinary topic. Rejects without a connection: nothing is queued. */
  publish(topic: string, payload: string | Uint8Array, options: { qos?: QoS; retain?: boolean } = {}): Promise<void> {
    return this.#link.publish(topic, payload, { qos: options.qos ?? 0, retain: options.retain ?? false });
  }

  /** Sends the acks that are owed. It is called at each connection and in the foreground; call it after a worker has recorded one. */
  async pay(): Promise<void> {
    if (!this.#link.up) return;
    try {
      await this.#shown.pay(this.owner, this.#app === "foreground", (id, status) => this.#link.send("acks", { id, status }));
    } catch (err) {
      platform.console.debug("an ack is not sent yet:", err); // at the next opportunity
    }
  }

  /** All items on record, oldest first. */
  items(): Promise<Item[]> {
    return this.store.list(this.owner);
  }

  /** Makes the server forget the device and its registrations, and erases the record. Rejects if the server could not be told. */
  async signOut(): Promise<void> {
    await this.#link.send("signOut", {}).catch((err) => {
      // The server ends the connection once it has signed the device out.
      if (this.#status.kind !== "signed out") throw err;
    });
    this.#link.end({ kind: "signed out" });
    await this.#shown.forget(this.owner, () => this.store.forget(this.owner));
  }

  /** Reconnects at once: the network is back. */
  retryNow(): void {
    this.#link.retryNow();
  }

  close(): void {
    this.#link.end({ kind: "closed" });
  }

  #onStatus(s: Status): void {
    this.#status = s;
    switch (s.kind) {
      case "up":
        this.#registerPending();
        void this.pay();
        break;
      case "refused": case "elsewhere": case "signed out": case "closed":
        this.#drop();
    }
    this.#o.status?.(s);
  }

  async #show(p: Pseudo): Promise<{ displayed: boolean }> {
    const { item } = await this.#shown.show(this.owner, p, async () => await this.#o.show(p, this.#app) ?? (this.#app === "foreground" ? "page" : "tip"));
    this.#o.changed?.(item);
    return { displayed: item.owed !== "displayed" };
  }

  async #message(m: Message): Promise<void> {
    const item = await this.#shown.message(this.owner, m, async () => this.#o.message?.(m));
    if (item) this.#o.changed?.(item);
  }

  async #dismiss(d: Dismissal): Promise<void> {
    const item = await this.#shown.dismiss(this.owner, d.id, async () => this.#o.dismiss?.(d));
    this.#o.changed?.(item);
  }

  #registerPending(): void {
    for (const [key, p] of this.#pending) {
      const settle = (fn: () => void) => {
        if (this.#pending.get(key) === p) this.#pending.delete(key);
        fn();
      };
      this.#link.send("pushToken", p.token).then(
        () => settle(() => p.resolve()),
        (err: Error) => { if (err instanceof RefusedError) settle(() => p.reject(err)); }, // otherwise at the next connection
      );
    }
  }

  #drop(): void {
    for (const p of this.#pending.values()) p.reject(new NotConnectedError());
    this.#pending.clear();
  }
}

// slot names the registration that a token is for: a device has one of a server and kind.
function slot(t: PushToken): string {
  const value = Object.values(t)[0] as unknown;
  const kind = typeof value === "object" && value !== null && "kind" in value ? String(value.kind) : "alert";
  return `${serverOf(t)} ${kind}`;
}

const serverOf = (t: PushToken): string => Object.keys(t)[0] ?? "";
const removesAll = (t: PushToken): boolean => Object.values(t)[0] === null;
