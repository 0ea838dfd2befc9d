import type { AppState } from "../core/wire.js";

/** A page that is looked at is an app in the foreground. */
export function pageState(): AppState {
  return document.visibilityState === "visible" ? "foreground" : "background";
}

/**
 * Keeps a device's app state in step with the page, and reconnects when the network is
 * back. Returns a function that ends that. fn, if given, is called after each change.
 */
export function followPage(device: () => { setApp(app: AppState): void; retryNow(): void } | undefined, fn?: (app: AppState) => void): () => void {
  const changed = () => {
    device()?.setApp(pageState());
    fn?.(pageState());
  };
  const online = () => device()?.retryNow();
  document.addEventListener("visibilitychange", changed);
  addEventListener("online", online);
  return () => {
    document.removeEventListener("visibilitychange", changed);
    removeEventListener("online", online);
  };
}
