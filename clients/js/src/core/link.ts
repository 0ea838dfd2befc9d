// The connection of a device. Each connection has an MQTT.js client of its own, so that
// nothing queued for one connection is sent on the next.
import { platform, type Timers } from "./platform.js";
import { topics, type AppState, type Dismissal, type Message, type Pseudo, type Topics } from "./wire.js";

/** The parts of an MQTT.js client that a link uses. */
export interface MqttClient {
  readonly connected: boolean;
  on(event: "connect" | "close" | "packetreceive", fn: () => void): unknown;
  on(event: "message", fn: (topic: string, payload: Uint8Array, packet: { retain?: boolean }) => void): unknown;
  on(event: "error", fn: (err: Error & { code?: unknown }) => void): unknown;
  on(event: "disconnect", fn: (packet: { reasonCode?: number; properties?: { reasonString?: string } }) => void): unknown;
  publish(topic: string, payload: string | Uint8Array, options: { qos: QoS; retain?: boolean }, done?: (err?: Error & { code?: unknown }, packet?: { properties?: { reasonString?: string } }) => void): unknown;
  subscribe(filters: Record<string, { qos: QoS }>, done: (err: Error | null, subscriptions?: unknown, suback?: Suback) => void): unknown;
  end(force?: boolean): unknown;
  sendPing?(): void;
}

interface Suback {
  granted?: unknown[]; // QoS or reason codes, in the order of the filters
  properties?: { reasonString?: string };
}

/** MQTT.js's connect. */
export type MqttConnect = (url: string, options: Record<string, unknown>) => MqttClient;

export type QoS = 0 | 1 | 2;

/** A publish on an ordinary topic. */
export interface Publication {
  topic: string;
  payload: Uint8Array;
  retain: boolean;
}

export interface Will {
  topic: string;
  payload: string;
  qos?: QoS;
  retain?: boolean;
}

export interface LinkOptions {
  connect: MqttConnect;
  url: string;
  prefix: string;
  account: string;
  device: string;
  password?: string | (() => string | Promise<string>);
  keepalive: number;
  timers: Timers;
  subscribe: Record<string, QoS>;
  will?: Will;
  // show, message and dismiss return once it is shown and recorded; a rejection refuses
  // the copy (0x80), and the server goes another way.
  show(p: Pseudo): Promise<{ displayed: boolean }>;
  message(m: Message): Promise<void>;
  dismiss(d: Dismissal): Promise<void>;
  receive(p: Publication): void;
  status(s: Status): void;
}

export type Status =
  | { kind: "connecting" }
  /** Connected and subscribed. */
  | { kind: "up" }
  /** The connection is lost; the next attempt is retryIn ms away. */
  | { kind: "down"; retryIn: number; why: string }
  /** The server does not take this device: it does not reconnect by itself. */
  | { kind: "refused"; why: string }
  /** Another client has connected under this device ID: it does not reconnect by itself. */
  | { kind: "elsewhere" }
  /** The device has signed out, here or on the server. */
  | { kind: "signed out" }
  | { kind: "closed" };

/** The error of a publish that the server has refused. */
export class RefusedError extends Error {
  readonly code: number; // MQTT 5 reason code
  constructor(code: number, reason: string) {
    super(reason);
    this.name = "RefusedError";
    this.code = code;
  }
}

/** The error of a call that needs a connection where there is none. */
export class NotConnectedError extends Error {
  constructor() {
    super("not connected");
    this.name = "NotConnectedError";
  }
}

const sessionExpiry = 24 * 60 * 60; // seconds
const receiveMaximum = 64; // above the server's window of 16 deliveries and their messages
const firstPause = 1000; // ms
const longestPause = 60_000;
const lasting = 10_000; // ms; the loss of a connection that lasted so long is no failure
const probing = 5000; // ms; how long a ping of retryNow may stay unanswered
const asking = 30_000; // ms; how long the password function may take

const success = 0x00;
const unspecifiedError = 0x80;
const sessionTakenOver = 0x8e;
const administrativeAction = 0x98;

// final are the answers to CONNECT that the same CONNECT gets again. Others, such as
// 0x88 "server unavailable" and 0x89 "server busy", pass.
const final: Record<number, string> = {
  0x81: "it takes the packet for malformed",
  0x82: "it takes the packet for a protocol error",
  0x84: "it does not speak MQTT 5",
  0x85: "it does not take this device ID",
  0x86: "bad account or password",
  0x87: "not authorized",
  0x8a: "banned",
  0x8c: "bad authentication method",
  0x90: "it does not take the will's topic",
  0x95: "the packet is too large",
  0x99: "it does not take the will's payload",
  0x9a: "it keeps no retained messages",
  0x9b: "it does not take the will's QoS",
  0x9c: "use another server",
  0x9d: "the server has moved",
};

const errorText = (err: unknown) => (err instanceof Error ? err.message : String(err));

// The payload is a Uint8Array of any platform, or a string.
const decode = (payload: { toString(): string }) => payload.toString();

export class Link {
  readonly #o: LinkOptions;
  readonly #topics: Topics;
  readonly #own: Set<string>; // the topics that the server sends to
  #app: AppState;
  #client: MqttClient | undefined;
  #timer: number | undefined; // of the next attempt
  #asking: number | undefined; // the end of the time for the password function
  #probe: number | undefined; // the end of the time for an answer to a ping
  #handling = 0; // publishes that are being shown: nothing else is read meanwhile
  #fails = 0;
  #since = 0;
  #up = false;
  #ended = false;
  #why = "";
  // MQTT.js does not call back for the publishes of a connection that is lost.
  readonly #unanswered = new Set<(err: Error) => void>();

  constructor(o: LinkOptions, app: AppState) {
    this.#o = o;
    this.#topics = topics(o.prefix, o.device);
    this.#own = new Set([this.#topics.notifications, this.#topics.messages, this.#topics.dismissals]);
    this.#app = app;
    void this.#connect();
  }

  get up(): boolean {
    return this.#up && this.#client?.connected === true;
  }

  get ended(): boolean {
    return this.#ended;
  }

  // setApp tells the server at once, or at the next connection.
  setApp(app: AppState): void {
    if (app === this.#app) return;
    this.#app = app;
    if (this.#client?.connected) this.#publishState(this.#client);
  }

  // send publishes JSON on a topic of the device, at QoS 1.
  send(topic: "acks" | "pushToken" | "signOut", body: unknown): Promise<void> {
    return this.publish(this.#topics[topic], JSON.stringify(body), { qos: 1 });
  }

  publish(topic: string, payload: string | Uint8Array, options: { qos: QoS; retain?: boolean }): Promise<void> {
    const client = this.#client;
    if (!client?.connected) return Promise.reject(new NotConnectedError());
    return new Promise((resolve, reject) => {
      this.#unanswered.add(reject);
      client.publish(topic, payload, options, (err, packet) => {
        this.#unanswered.delete(reject);
        if (!err) resolve();
        else if (typeof err.code === "number" && err.code >= 0x80) reject(new RefusedError(err.code, packet?.properties?.reasonString || err.message));
        else reject(err);
      });
    });
  }

  // retryNow reconnects at once: the network is back, or somebody opens the app. A connection
  // that is there may be dead without anybody having noticed: it has to answer a ping.
  retryNow(): void {
    if (this.#timer !== undefined) {
      this.#o.timers.stop(this.#timer);
      void this.#connect();
      return;
    }
    const client = this.#client;
    if (!this.up || this.#probe !== undefined || !client?.sendPing) return;
    client.sendPing();
    this.#probe = this.#o.timers.after(probing, () => {
      this.#probe = undefined;
      if (this.#handling > 0) return; // the answer may be behind it
      this.#why = "no answer to a ping";
      this.#lost(client);
      this.retryNow();
    });
  }

  #stopProbe(): void {
    if (this.#probe !== undefined) this.#o.timers.stop(this.#probe);
    this.#probe = undefined;
  }

  end(s: Status): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#up = false;
    if (this.#timer !== undefined) this.#o.timers.stop(this.#timer);
    if (this.#asking !== undefined) this.#o.timers.stop(this.#asking);
    this.#stopProbe();
    this.#client?.end(s.kind !== "closed");
    this.#abandon();
    this.#o.status(s);
  }

  async #connect(): Promise<void> {
    this.#timer = undefined;
    this.#up = false;
    this.#why = "";
    this.#o.status({ kind: "connecting" });
    const { timers, will } = this.#o;
    let password: string | undefined;
    try {
      password = typeof this.#o.password === "function" ? await this.#ask(this.#o.password) : this.#o.password;
    } catch (err) {
      if (!this.#ended) this.#pause(`no password: ${errorText(err)}`);
      return;
    }
    if (this.#ended) return;
    let client: MqttClient;
    const options = {
      protocolVersion: 5,
      clientId: this.#o.device,
      username: this.#o.account,
      ...(password ? { password } : {}),
      ...(will ? { will: { qos: 0, retain: false, ...will } } : {}),
      clean: false,
      keepalive: this.#o.keepalive,
      properties: { sessionExpiryInterval: sessionExpiry, receiveMaximum, requestProblemInformation: true },
      reconnectPeriod: 0, // MQTT.js has no growing pauses
      resubscribe: false,
      queueQoSZero: false,
      timerVariant: { set: (fn: () => void, ms?: number) => timers.every(ms ?? 0, () => fn()), clear: (id?: number) => { if (id !== undefined) timers.stop(id); } },
      customHandleAcks: (topic: string, payload: Uint8Array, _: unknown, done: (code: number) => void) => void this.#arrived(client, topic, payload, done),
    };
    try {
      client = this.#o.connect(this.#o.url, options);
    } catch (err) { // no URL, no protocol that MQTT.js knows, ws: in a page of https:
      await undefined; // the caller has its Device before its status changes
      this.end({ kind: "refused", why: `no connection can be made: ${errorText(err)}` });
      return;
    }
    this.#client = client;
    client.on("packetreceive", () => { if (client === this.#client) this.#stopProbe(); });
    client.on("connect", () => this.#connected(client));
    client.on("message", (topic, payload, packet) => {
      if (!this.#own.has(topic)) this.#o.receive({ topic, payload, retain: packet.retain === true });
    });
    client.on("error", (err) => {
      this.#why = err.message;
      if (typeof err.code === "number" && final[err.code]) this.end({ kind: "refused", why: final[err.code] ?? err.message });
    });
    client.on("disconnect", ({ reasonCode, properties }) => {
      this.#why = properties?.reasonString ?? `the server ended the connection (0x${(reasonCode ?? 0).toString(16)})`;
      // Two clients with one identifier would throw each other out for ever.
      if (reasonCode === sessionTakenOver) this.end({ kind: "elsewhere" });
      if (reasonCode === administrativeAction && properties?.reasonString === "signed out") this.end({ kind: "signed out" });
    });
    client.on("close", () => this.#lost(client));
  }

  // #ask bounds the time for the password: a function that never answers would keep the device
  // from any further attempt.
  async #ask(password: () => string | Promise<string>): Promise<string> {
    const { timers } = this.#o;
    const late = new Promise<never>((_, reject) => {
      this.#asking = timers.after(asking, () => reject(new Error(`the function has not answered within ${asking / 1000} s`)));
    });
    const timer = this.#asking;
    try {
      return await Promise.race([password(), late]);
    } finally {
      if (timer !== undefined) timers.stop(timer);
    }
  }

  #connected(client: MqttClient): void {
    this.#since = Date.now();
    // Before the subscription: the channel comes up with the right state.
    this.#publishState(client);
    const filters = Object.fromEntries([...[...this.#own].map((t) => [t, { qos: 1 as QoS }] as const), ...Object.entries(this.#o.subscribe).map(([t, qos]) => [t, { qos }] as const)]);
    client.subscribe(filters, (err, _, suback) => {
      if (this.#ended || client !== this.#client || !client.connected) return;
      const refused = Object.keys(filters).filter((_, i) => Number(suback?.granted?.[i] ?? 0) >= 0x80);
      if (err && !(refused.length > 0 && refused.every((t) => !this.#own.has(t)))) {
        this.end({ kind: "refused", why: err.message });
        return;
      }
      // It costs no notification.
      if (refused.length > 0) platform.console.error("subscription refused:", refused.join(", "), suback?.properties?.reasonString ?? err?.message);
      this.#up = true;
      this.#o.status({ kind: "up" });
    });
  }

  #lost(client: MqttClient): void {
    if (this.#ended || client !== this.#client || this.#timer !== undefined) return;
    client.end(true); // nothing more comes from this one
    this.#stopProbe();
    this.#abandon();
    if (this.#up && Date.now() - this.#since >= lasting) this.#fails = 0;
    this.#pause(this.#why || "connection lost");
  }

  #abandon(): void {
    for (const reject of this.#unanswered) reject(new NotConnectedError());
    this.#unanswered.clear();
  }

  // #pause waits before the next attempt, spread so that devices that lost their server
  // together do not come back together.
  #pause(why: string): void {
    const most = Math.min(firstPause * 2 ** this.#fails++, longestPause);
    const pause = most / 2 + Math.random() * (most / 2);
    this.#up = false;
    this.#timer = this.#o.timers.after(pause, () => void this.#connect());
    this.#o.status({ kind: "down", retryIn: pause, why });
  }

  // #publishState is at QoS 0: a state is of its connection.
  #publishState(client: MqttClient): void {
    client.publish(this.#topics.state, JSON.stringify({ app: this.#app }), { qos: 0 });
  }

  // #arrived handles one PUBLISH; done sends the PUBACK, and the next is handled
  // after that.
  async #arrived(client: MqttClient, topic: string, payload: Uint8Array, done: (code: number) => void): Promise<void> {
    this.#handling++;
    try {
      switch (topic) {
        case this.#topics.notifications: {
          const p = JSON.parse(decode(payload)) as Pseudo;
          const { displayed } = await this.#o.show(p);
          done(success);
          if (displayed && p.ack === "displayed" && client.connected) {
            // If this is lost, the server sends the notification again.
            this.send("acks", { id: p.id, status: "displayed" }).catch((err) => platform.console.debug("displayed not published yet:", err));
          }
          return;
        }
        case this.#topics.messages:
          await this.#o.message(JSON.parse(decode(payload)) as Message);
          break;
        case this.#topics.dismissals:
          await this.#o.dismiss(JSON.parse(decode(payload)) as Dismissal);
      }
      done(success);
    } catch (err) {
      platform.console.error("not shown, and refused:", topic, err);
      done(unspecifiedError);
    } finally {
      this.#handling--;
    }
  }
}
