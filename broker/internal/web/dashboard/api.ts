// Calls of the HTTP API. The token is sent as a header, never as a cookie: another
// site cannot make this browser send it.

const key = "heartline-token";
const base = new URL("../", location.href);

export const token = {
  get: () => sessionStorage.getItem(key) ?? "",
  set: (value: string) => sessionStorage.setItem(key, value),
  remove: () => sessionStorage.removeItem(key),
};

/** Problem is an error that the API explains (RFC 9457). */
export class Problem extends Error {
  constructor(readonly status: number, readonly code: string, detail: string) { super(detail); }
}

let wanted = () => {};
/** onSignIn sets what happens where a call needs a token. */
export function onSignIn(f: () => void): void { wanted = f; }

async function request(method: string, path: string, signal: AbortSignal | null, body?: unknown): Promise<Response> {
  const headers: Record<string, string> = {};
  if (token.get()) headers.authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let r: Response;
  try {
    r = await fetch(new URL(path, base), { method, headers, signal, body: body === undefined ? null : JSON.stringify(body) });
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new Problem(0, "unreachable", "Heartline does not answer. It may be restarting; the page tries again.");
  }
  if (r.ok) return r;
  const p = await r.json().catch(() => ({})) as { code?: string; detail?: string };
  if (r.status === 401) wanted();
  throw new Problem(r.status, p.code ?? "", p.detail ?? `the server answered ${r.status}`);
}

export async function get<T>(path: string, signal: AbortSignal): Promise<T> {
  return await (await request("GET", path, signal)).json() as T;
}

export async function act<T>(method: string, path: string, body?: unknown): Promise<T | undefined> {
  const r = await request(method, path, null, body);
  return r.status === 204 ? undefined : await r.json() as T;
}

/** stream calls got with the data of every server-sent event until signal; it connects again by itself. */
export async function stream(path: string, signal: AbortSignal, got: (data: string) => void, state: (up: boolean) => void): Promise<void> {
  while (!signal.aborted) {
    try {
      const r = await request("GET", path, signal);
      state(true);
      const lines = r.body!.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await lines.read();
        if (done) break;
        const parts = (rest + value).split("\n");
        rest = parts.pop() ?? "";
        for (const line of parts) if (line.startsWith("data: ")) got(line.slice(6));
      }
    } catch (e) {
      if (signal.aborted || e instanceof Problem && (e.status === 401 || e.status === 403)) return;
    }
    state(false);
    await new Promise((done) => setTimeout(done, 2000));
  }
}

/** level encodes a name as one part of a path. */
export const level = (name: string) => encodeURIComponent(name);
