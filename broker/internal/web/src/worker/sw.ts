// The service worker shows tips, those of the page and those of pushes. It caches
// nothing and answers no request.
import { indexedDBStore, servePushes } from "@heartline-mqtt/client/worker";
import { storeName } from "../names";

const worker = self as unknown as ServiceWorkerGlobalScope;

worker.addEventListener("install", () => void worker.skipWaiting());
worker.addEventListener("activate", (e) => e.waitUntil(worker.clients.claim()));

servePushes(worker, {
  store: indexedDBStore(storeName),
  page(scope, device) {
    const page = new URL(scope);
    if (device) page.search = String(new URLSearchParams({ account: device.account, device: device.device }));
    return page.href;
  },
});
