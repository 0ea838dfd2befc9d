// Calls of the HTTP API. The token is sent as a header, never as a cookie: another
// site cannot make this browser send it.

const key = "heartline-token";
const base = new URL("../", location.href);

// A browser that blocks the data of this site refuses its storage: then the page keeps the token.
let kept = "";
const storage = (): Storage | undefined => {
  try {
    return sessionStorage;
  } catch {
    return undefined;
  }
};

export const token = {
  get: () => storage()?.getItem(key) ?? kept,
  set: (value: string) => {
    kept = value;
    storage()?.setItem(key, value);
  },
  remove: () => {
    kept = "";
    storage()?.removeItem(key);
  },
};

/** Problem is an error that the API explains (RFC 9457). */
export class Problem extends Error {
  constructor(readonly status: number, readonly code: string, detail: string) { super(detail); }
}

/** passing reports whether the same request may work a little later. */
export const passing = (e: unknown): e is Problem => e instanceof Problem && (e.status === 0 || e.status >= 500);

const unreachable = () => new Problem(0, "unreachable", "Heartline does not answer. It may be restarting.");

/** pause waits, and no longer than signal. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}

// silence is how long a read may bring nothing. The server sends the overview every 2 s, and waits
// 10 s for a database that answers nothing.
const silence = 15_000;

// cutOff gives f a signal that aborts, too, when f has not called alive for a while.
async function cutOff<T>(ms: number, signal: AbortSignal, f: (signal: AbortSignal, alive: () => void) => Promise<T>): Promise<T> {
  const cut = new AbortController();
  const abort = () => cut.abort();
  let timer = setTimeout(abort, ms);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    return await f(cut.signal, () => {
      clearTimeout(timer);
      timer = setTimeout(abort, ms);
    });
  } catch (e) {
    throw cut.signal.aborted && !signal.aborted ? unreachable() : e;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    abort(); // a stream whose f has failed
  }
}

let wanted = () => {};
/** onSignIn sets what happens where a call needs a token. */
export function onSignIn(f: () => void): void { wanted = f; }

async function request(method: string, path: string, signal: AbortSignal, body?: unknown): Promise<Response> {
  const headers: Record<string, string> = {};
  if (token.get()) headers.authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let r: Response;
  try {
    r = await fetch(new URL(path, base), { method, headers, signal, body: body === undefined ? null : JSON.stringify(body) });
  } catch (e) {
    if (signal.aborted) throw e;
    throw unreachable();
  }
  if (r.ok) return r;
  const p = await r.json().catch(() => ({})) as { code?: string; detail?: string };
  if (r.status === 401) wanted();
  throw new Problem(r.status, p.code ?? "", p.detail ?? `the server answered ${r.status}`);
}

function json<T>(r: Response): Promise<T> {
  return r.json().catch((e: unknown) => { throw e instanceof TypeError ? unreachable() : e; }) as Promise<T>;
}

/** get is for what a page shows: it fails when nothing comes for a while. */
export function get<T>(path: string, signal: AbortSignal): Promise<T> {
  return cutOff(silence, signal, async (s) => json<T>(await request("GET", path, s)));
}

/** act fails when there is no answer within 30 s. The act may have worked then. */
export function act<T>(method: string, path: string, body?: unknown): Promise<T | undefined> {
  return cutOff(30_000, new AbortController().signal, async (s) => {
    const r = await request(method, path, s, body);
    return r.status === 204 ? undefined : json<T>(r);
  });
}

/**
 * stream calls got with the data of every server-sent event until signal. It calls lost when the
 * connection ends or is silent, and connects again. It fails if the first connection brings nothing.
 */
export async function stream(path: string, signal: AbortSignal, got: (data: string) => void, lost: () => void): Promise<void> {
  for (let shown = false; !signal.aborted;) {
    try {
      await cutOff(silence, signal, async (s, alive) => {
        const r = await request("GET", path, s);
        const lines = r.body!.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { value, done } = await lines.read().catch((e: unknown) => { throw s.aborted ? e : unreachable(); });
          if (done) throw unreachable();
          alive();
          const parts = (rest + value).split("\n");
          rest = parts.pop() ?? "";
          for (const line of parts) {
            if (!line.startsWith("data: ")) continue;
            got(line.slice(6));
            shown = true;
          }
        }
      });
    } catch (e) {
      if (signal.aborted) return;
      if (!shown || !passing(e)) throw e;
    }
    lost();
    await pause(2000, signal);
  }
}

/** level encodes a name as one part of a path. */
export const level = (name: string) => encodeURIComponent(name);
