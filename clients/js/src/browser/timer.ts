// The worker that the timers of a page run in.
const running = new Map<number, ReturnType<typeof setInterval>>();

onmessage = ({ data }: MessageEvent<{ id: number; ms: number; once: boolean } | { id: number }>) => {
  if ("ms" in data) {
    const set: typeof setInterval = data.once ? (setTimeout as typeof setInterval) : setInterval;
    running.set(data.id, set(() => postMessage(data.id), data.ms));
    return;
  }
  clearInterval(running.get(data.id)); // of a timeout, too
  running.delete(data.id);
};

export {};
