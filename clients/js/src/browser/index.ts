/** The parts of a device that a web page needs. */
export { browserLock, indexedDBStore } from "./store.js";
export { followPage, pageState } from "./page.js";
export { webLink } from "./links.js";
export type { News, TipData } from "./news.js";
export { askPermission, permission, Tips, type Permission } from "./tips.js";
export { workerTimers } from "./timers.js";
