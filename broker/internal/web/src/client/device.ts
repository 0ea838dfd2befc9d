// A device on MQTT.js. Each connection has a client of its own, so that nothing
// queued for one connection is sent on the next. It needs no DOM.
import mqtt, { type IPublishPacket, type MqttClient } from "mqtt";
import { topics, type AckStatus, type AppState, type Dismissal, type Message, type Pseudo, type PushToken } from "./wire";

// Timers are setInterval and setTimeout under names of their own: a browser delays
// those of a page in the background, and a page passes a worker's timers instead.
export interface Timers {
  every(ms: number, fn: () => void): number;
  after(ms: number, fn: () => void): number;
  stop(id: number): void;
}

export interface Options {
  url: string;
  prefix: string;
  account: string;
  device: string;
  password?: string;
  timers: Timers;
  // show and message return once the thing is shown and noted down; what they
  // fail at is refused (0x80), and the server goes another way.
  show(p: Pseudo): Promise<{ displayed: boolean }>;
  message(m: Message): Promise<void>;
  dismiss(d: Dismissal): Promise<void>;
  status(s: Status): void;
}

export type Status =
  | { kind: "connecting" }
  | { kind: "up" }
  | { kind: "down"; retryIn: number }
  | { kind: "refused"; why: string }
  | { kind: "elsewhere" }
  | { kind: "closed" };

const keepalive = 30; // seconds
const sessionExpiry = 24 * 60 * 60; // seconds
const receiveMaximum = 64; // above the server's window of 16 deliveries and their messages
const firstPause = 1000; // ms
const longestPause = 60_000;
const lasting = 10_000; // a connection that was there for so long is no failure

const success = 0x00;
const unspecifiedError = 0x80;
const sessionTakenOver = 0x8e;

const reasons: Record<number, string> = {
  0x84: "it does not speak MQTT 5",
  0x85: "it does not take this device ID",
  0x86: "bad account or password",
  0x87: "not authorized",
  0x88: "it is not available",
  0x89: "it is busy",
  0x8a: "banned",
};

export class Device {
  readonly #o: Options;
  readonly #topics: ReturnType<typeof topics>;
  #app: AppState;
  #client: MqttClient | undefined;
  #timer: number | undefined;
  #fails = 0;
  #since = 0;
  #up = false;
  #ended = false;

  constructor(o: Options, app: AppState) {
    this.#o = o;
    this.#topics = topics(o.prefix, o.device);
    this.#app = app;
    this.#connect();
  }

  // setApp tells the server at once, or when there is a connection again.
  setApp(app: AppState): void {
    if (app === this.#app) return;
    this.#app = app;
    if (this.#client?.connected) this.#publishState(this.#client);
  }

  // ack tells the server more about a notification than the PUBACK does.
  ack(id: string, status: AckStatus): Promise<void> {
    return this.#publish(this.#topics.acks, { id, status });
  }

  // registerPush gives the server a push token, or removes those of one server.
  registerPush(token: PushToken): Promise<void> {
    return this.#publish(this.#topics.pushToken, token);
  }

  // signOut makes the server forget the device; another account can then use its ID.
  async signOut(): Promise<void> {
    await this.#publish(this.#topics.signOut, {});
    this.#end({ kind: "closed" });
  }

  // retryNow reconnects at once: the network is back, or the user looks at the page.
  retryNow(): void {
    if (this.#timer === undefined) return;
    this.#o.timers.stop(this.#timer);
    this.#connect();
  }

  close(): void {
    this.#end({ kind: "closed" });
  }

  #end(s: Status): void {
    if (this.#ended) return;
    this.#ended = true;
    if (this.#timer !== undefined) this.#o.timers.stop(this.#timer);
    this.#client?.end(s.kind !== "closed");
    this.#o.status(s);
  }

  #connect(): void {
    this.#timer = undefined;
    this.#up = false;
    this.#o.status({ kind: "connecting" });
    const { timers } = this.#o;
    const client = mqtt.connect(this.#o.url, {
      protocolVersion: 5,
      clientId: this.#o.device,
      username: this.#o.account,
      ...(this.#o.password ? { password: this.#o.password } : {}),
      clean: false,
      keepalive,
      properties: { sessionExpiryInterval: sessionExpiry, receiveMaximum, requestProblemInformation: true },
      reconnectPeriod: 0, // it knows no backoff
      resubscribe: false,
      queueQoSZero: false,
      timerVariant: { set: (fn, ms) => timers.every(ms ?? 0, () => fn()), clear: (id) => { if (id !== undefined) timers.stop(id); } },
      customHandleAcks: (topic, payload, packet, done) => void this.#arrived(client, topic, payload, packet, done),
    });
    this.#client = client;
    client.on("connect", () => void this.#connected(client));
    client.on("error", (err) => {
      if ("code" in err && typeof err.code === "number" && err.code >= 0x80) {
        this.#end({ kind: "refused", why: reasons[err.code] ?? err.message });
      }
    });
    client.on("disconnect", (packet) => {
      // Two clients with one identifier would throw each other out for ever.
      if (packet.reasonCode === sessionTakenOver) this.#end({ kind: "elsewhere" });
    });
    client.on("close", () => this.#lost(client));
  }

  async #connected(client: MqttClient): Promise<void> {
    this.#since = Date.now();
    // Before the subscription: the channel is to come up with the right state.
    this.#publishState(client);
    try {
      await client.subscribeAsync({ [this.#topics.notifications]: { qos: 1 }, [this.#topics.messages]: { qos: 1 }, [this.#topics.dismissals]: { qos: 1 } });
    } catch (err) {
      if (client.connected) this.#end({ kind: "refused", why: err instanceof Error ? err.message : String(err) });
      return;
    }
    if (this.#ended || client !== this.#client) return;
    this.#up = true;
    this.#o.status({ kind: "up" });
  }

  #lost(client: MqttClient): void {
    if (this.#ended || client !== this.#client || this.#timer !== undefined) return;
    client.end(true); // of this one nothing more is heard
    if (this.#up && Date.now() - this.#since >= lasting) this.#fails = 0;
    // Spread, so that pages that lost their server together do not come back together.
    const most = Math.min(firstPause * 2 ** this.#fails++, longestPause);
    const pause = most / 2 + Math.random() * (most / 2);
    this.#up = false;
    this.#timer = this.#o.timers.after(pause, () => this.#connect());
    this.#o.status({ kind: "down", retryIn: pause });
  }

  // #publishState is at QoS 0: a state is of its connection.
  #publishState(client: MqttClient): void {
    client.publish(this.#topics.state, JSON.stringify({ app: this.#app }), { qos: 0 });
  }

  async #publish(topic: string, body: unknown): Promise<void> {
    if (!this.#client?.connected) throw new Error("not connected");
    await this.#client.publishAsync(topic, JSON.stringify(body), { qos: 1 });
  }

  // #arrived handles one PUBLISH; done sends the PUBACK, and the next is handled
  // after that.
  async #arrived(client: MqttClient, topic: string, payload: Buffer, _packet: IPublishPacket, done: (code: number) => void): Promise<void> {
    try {
      const body: unknown = JSON.parse(payload.toString());
      switch (topic) {
        case this.#topics.notifications: {
          const p = body as Pseudo;
          const { displayed } = await this.#o.show(p);
          done(success);
          if (displayed && p.ack === "displayed" && client.connected) {
            // If this is lost, the server sends the notification again.
            this.ack(p.id, "displayed").catch((err) => console.debug("displayed not published yet:", err));
          }
          return;
        }
        case this.#topics.messages:
          await this.#o.message(body as Message);
          break;
        case this.#topics.dismissals:
          await this.#o.dismiss(body as Dismissal);
      }
      done(success);
    } catch (err) {
      console.error("not shown, and refused:", topic, err);
      done(unspecifiedError);
    }
  }
}
