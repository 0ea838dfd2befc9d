// storeName is the database that the page and the service worker share.
export const storeName = "heartline-terminal";
