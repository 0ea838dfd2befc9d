import type { Timers } from "../core/platform.js";

/**
 * Timers that run in a worker: a browser delays those of a page in the background, and no
 * heartbeat keeps to its time. The worker runs the module "@heartline-mqtt/client/timer".
 */
export function workerTimers(worker: Worker): Timers {
  const callbacks = new Map<number, () => void>();
  let last = 0;
  worker.onmessage = ({ data: id }: MessageEvent<number>) => callbacks.get(id)?.();
  return {
    every(ms, fn) {
      callbacks.set(++last, fn);
      worker.postMessage({ id: last, ms, once: false });
      return last;
    },
    after(ms, fn) {
      const id = ++last;
      callbacks.set(id, () => { callbacks.delete(id); fn(); });
      worker.postMessage({ id, ms, once: true });
      return id;
    },
    stop(id) {
      callbacks.delete(id);
      worker.postMessage({ id });
    },
  };
}
