// The service worker is there for the tips alone: on a phone only a service worker
// may show one. It caches nothing and answers no request.
const worker = self as unknown as ServiceWorkerGlobalScope;

worker.addEventListener("install", () => void worker.skipWaiting());
worker.addEventListener("activate", (e) => e.waitUntil(worker.clients.claim()));

// Opening a tip brings its page to the front, and with it the app into the
// foreground: the message follows.
worker.addEventListener("notificationclick", (e) => {
  e.notification.close();
  const page: string = e.notification.data.page;
  e.waitUntil((async () => {
    const open = await worker.clients.matchAll({ type: "window" });
    const client = open.find((c) => c.url === page) ?? open[0];
    await (client ? client.focus() : worker.clients.openWindow(page));
  })());
});
