// The page's timers, which run in a worker.
declare const TIMER_WORKER: string; // its address, put in by build.mjs

const callbacks = new Map<number, () => void>();
let last = 0;
const worker = new Worker(TIMER_WORKER, { type: "module" });
worker.onmessage = ({ data: id }: MessageEvent<number>) => callbacks.get(id)?.();

// every and after are setInterval and setTimeout, and keep to their time in the
// background.
export function every(ms: number, fn: () => void): number {
  callbacks.set(++last, fn);
  worker.postMessage({ id: last, ms, once: false });
  return last;
}

export function after(ms: number, fn: () => void): number {
  const id = ++last;
  callbacks.set(id, () => { callbacks.delete(id); fn(); });
  worker.postMessage({ id, ms, once: true });
  return id;
}

export function stop(id: number): void {
  callbacks.delete(id);
  worker.postMessage({ id });
}
