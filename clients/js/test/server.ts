// The real program in a process of its own. PROGRAM names it; without that it is built.
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";

const patience = 30_000; // ms

let built: string | undefined;

export function program(): string {
  if (process.env["PROGRAM"]) return process.env["PROGRAM"];
  if (!built) {
    built = join(tmpdir(), `heartline-client-test-${process.pid}`);
    execFileSync("go", ["build", "-o", built, "."], { cwd: "../..", stdio: "inherit" });
  }
  return built;
}

export interface View {
  state: string;
  timeline: { event: string; device?: string; detail?: string }[];
}

export class Server {
  readonly #t: TestContext;
  readonly #data: string;
  readonly #env: Record<string, string>;
  #process: ChildProcess | undefined;
  #addresses: { mqtt: string; http: string } | undefined;

  private constructor(t: TestContext, data: string, env: Record<string, string>) {
    this.#t = t;
    this.#data = data;
    this.#env = env;
  }

  // start starts a server that ends with the test.
  static async start(t: TestContext, env: Record<string, string> = {}): Promise<Server> {
    const data = await mkdtemp(join(tmpdir(), "heartline-client-"));
    const s = new Server(t, data, env);
    t.after(async () => {
      await s.kill();
      await rm(data, { recursive: true, force: true });
    });
    await s.again();
    return s;
  }

  // again starts the process, at the addresses that it had before.
  async again(): Promise<void> {
    const { mqtt, http } = this.#addresses ?? { mqtt: "127.0.0.1:0", http: "127.0.0.1:0" };
    const p = spawn(program(), ["serve", "--data-dir", join(this.#data, "data"), "--mqtt-address", mqtt, "--http-address", http, "--log-format", "json"], {
      env: { PATH: process.env["PATH"], HOME: this.#data, TZ: "UTC", ...this.#env }, stdio: ["ignore", "ignore", "pipe"],
    });
    this.#process = p;
    const log: string[] = [];
    const lines = createInterface({ input: p.stderr! });
    this.#addresses = await new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("the server is not ready:\n" + log.join("\n"))), patience);
      lines.on("line", (line) => {
        log.push(line);
        if (!line.includes('"heartline is ready"')) return;
        clearTimeout(late);
        resolve(JSON.parse(line));
      });
      p.once("exit", () => { clearTimeout(late); reject(new Error("the server has ended:\n" + log.join("\n"))); });
    });
  }

  // kill is kill -9.
  async kill(): Promise<void> {
    const p = this.#process;
    if (!p || p.exitCode !== null || p.signalCode !== null) return;
    const ended = new Promise((resolve) => p.once("exit", resolve));
    p.kill("SIGKILL");
    await ended;
  }

  // freeze stops the process, so that its connections stay open and nothing answers.
  async freeze(): Promise<void> {
    this.#process?.kill("SIGSTOP");
    await eventually("the process stops", async () => / [Tt] /.test((await readFile(`/proc/${this.#process?.pid}/stat`, "utf8")).slice(0, 60)));
  }

  thaw(): void {
    this.#process?.kill("SIGCONT");
  }

  get ws(): string { return `ws://${this.#addresses!.http}/mqtt`; }
  get tcp(): string { return `mqtt://${this.#addresses!.mqtt}`; }
  get test(): TestContext { return this.#t; }

  async call(method: string, path: string, body?: unknown): Promise<{ status: number; body: any }> {
    const r = await fetch(`http://${this.#addresses!.http}${path}`, {
      method, headers: { "Content-Type": "application/json" }, ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await r.text();
    return { status: r.status, body: text ? JSON.parse(text) : undefined };
  }

  async notify(body: Record<string, unknown>): Promise<string> {
    const r = await this.call("POST", "/v1/notifications", body);
    if (r.status !== 202) throw new Error(`${r.status} ${JSON.stringify(r.body)}`);
    return r.body.id;
  }

  async view(id: string): Promise<View> {
    return (await this.call("GET", `/v1/notifications/${id}`)).body;
  }

  // until waits for an event in the timeline of a notification.
  async until(id: string, event: string): Promise<View> {
    return eventually(`${event} of ${id}`, async () => {
      const v = await this.view(id);
      return v.timeline.some((e) => e.event === event) ? v : undefined;
    });
  }

  async device(account: string, device: string): Promise<any> {
    return (await this.call("GET", `/v1/accounts/${account}/devices/${device}`)).body;
  }
}

// eventually asks again and again until fn has an answer.
export async function eventually<T>(what: string, fn: () => Promise<T | undefined> | T | undefined): Promise<T> {
  for (const deadline = Date.now() + patience; ;) {
    const answer = await fn();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > deadline) throw new Error(`it did not come: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
