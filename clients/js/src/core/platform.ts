// The parts of the platform that the core uses. Browsers, Node.js and React Native all
// have them; the core is compiled with the types of none.

interface Platform {
  setTimeout(fn: () => void, ms: number): unknown;
  clearTimeout(id: unknown): void;
  setInterval(fn: () => void, ms: number): unknown;
  clearInterval(id: unknown): void;
  console: { debug(...args: unknown[]): void; error(...args: unknown[]): void };
  btoa?(text: string): string;
}

export const platform = globalThis as unknown as Platform;

/**
 * setInterval and setTimeout under names of their own. A browser delays the timers of a
 * page in the background, to one a minute in the end, and no heartbeat keeps to its time:
 * a page passes the timers of a worker instead.
 */
export interface Timers {
  every(ms: number, fn: () => void): number;
  after(ms: number, fn: () => void): number;
  stop(id: number): void;
}

/** The platform's own timers. */
export function plainTimers(): Timers {
  const running = new Map<number, () => void>();
  let last = 0;
  return {
    every(ms, fn) {
      const id = ++last;
      const timer = platform.setInterval(fn, ms);
      running.set(id, () => platform.clearInterval(timer));
      return id;
    },
    after(ms, fn) {
      const id = ++last;
      const timer = platform.setTimeout(() => {
        running.delete(id);
        fn();
      }, ms);
      running.set(id, () => platform.clearTimeout(timer));
      return id;
    },
    stop(id) {
      running.get(id)?.();
      running.delete(id);
    },
  };
}
